#!/bin/sh
# What a job used of its GPUs, told at its end: a line in a file or in the job's record, or a few lines in its own output.
#
# As a step of the epilog, which epilog.sh runs by itself where DCGM_JOB_SUMMARY_TO is set, it waits until the exporter has
# finished the summary, at most 5 s, and writes one line. As TaskEpilog, under the name task-epilog.sh, it is
# the job's user and prints the summary of the job that still runs.
#
# Settings are read from /etc/dcgm-exporter/environment, which the exporter reads, too; README.md explains them:
#   DCGM_EXPORTER_JOB_SUMMARY_DIR  where the exporter writes the summaries
#   DCGM_JOB_SUMMARY_TO            a file, 'admin-comment' or 'comment'; nothing is written without it
#   DCGM_JOB_SUMMARY_PATH          directories to find dcgm-exporter and sacctmgr in, if they are in none of the usual ones
#
# It never fails a job or drains a node: it exits with 0 whatever happens, is ended after 20 s, and starts nothing that
# stays. Slurm gives an epilog neither a search path nor a job's environment; a TaskEpilog has the job's.

usual=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin
PATH=$usual
LC_ALL=C
export PATH LC_ALL
umask 027
set -f
trap 'exit 0' EXIT HUP INT TERM

# Whoever runs several scripts may give them arguments of its own.
case ${1:-},${SLURM_SCRIPT_CONTEXT:-${0##*/}} in
    epilog,* | task,*) role=$1 ;;
    *,*task*) role=task ;;
    *) role=epilog ;;
esac
id=${SLURM_JOB_ID:-${SLURM_JOBID:-}}

# A file system or a daemon that does not answer holds this up no longer. The name is none that Slurm or a user needs.
if [ -z "${DCGM_JOB_SUMMARY_LIMITED:-}" ]; then
    limit=20
    [ "$role" = epilog ] || limit=4
    DCGM_JOB_SUMMARY_LIMITED=yes timeout -k 1 "$limit" "$0" "$role" </dev/null
    exit 0
fi

# say TEXT: to the system's log and to slurmd's. A user's job is told nothing but its summary.
say() {
    [ "$role" = epilog ] || return 0
    printf 'dcgm-exporter summary: %s\n' "$1"
    timeout 1 logger -t dcgm-exporter -- "summary: $1" 2>/dev/null
    return 0
}

settings() {
    summaries=${DCGM_EXPORTER_JOB_SUMMARY_DIR:-}
    to=${DCGM_JOB_SUMMARY_TO:-}
    places=${DCGM_JOB_SUMMARY_PATH:-}
    file=${DCGM_EXPORTER_ENVIRONMENT_FILE:-/etc/dcgm-exporter/environment}
    if [ -f "$file" ] && [ -r "$file" ]; then
        while IFS='=' read -r key value || [ -n "$key" ]; do
            value=${value#[\"\']}
            value=${value%[\"\']}
            case $key in
                DCGM_EXPORTER_JOB_SUMMARY_DIR) summaries=${summaries:-$value} ;;
                DCGM_JOB_SUMMARY_TO) to=${to:-$value} ;;
                DCGM_JOB_SUMMARY_PATH) places=${places:-$value} ;;
            esac
        done <"$file"
    fi
    PATH=${places:+$places:}$usual
}

# ask ARGUMENT...: what the exporter's program prints of the job, in 'text'. Returns as it does. It gets none of the
# variables here: a user's could be settings.
ask() {
    # Of what was killed the shell itself says so.
    {
        text=$(timeout -k 1 2 env -i "$program" --job-summary "$id" --job-summary-dir "$summaries" "$@" 2>&1 </dev/null)
    } 2>/dev/null
}

# is_of_this_run: whether the summary was written after the job's start. A requeued job keeps its id, and the summary of an
# earlier run stays as it was if no exporter has run since.
is_of_this_run() {
    case ${SLURM_JOB_START_TIME:-} in
        '' | *[!0-9]* | ?????????????*) return 0 ;;
    esac
    # Whole seconds, from the line that also has texts of others: a quotation mark in them has a backslash before it.
    updated=$(sed -n '1s/^{"format":1,.*"updated":\([0-9]\{1,12\}\)\.[0-9]*,"about":.*/\1/p;1q' \
        "$summaries/$id.json" 2>/dev/null </dev/null)
    [ -z "$updated" ] || [ "$updated" -ge "$SLURM_JOB_START_TIME" ]
}

# finished: waits until the summary has the job's end. The exporter sees the job map change at once, and needs some
# milliseconds; one that has died would never. Returns 1 if there is none, with the reason in 'why', which is empty for a
# job without GPUs.
finished() {
    looks=0
    while :; do
        if ! ask --job-summary-short || [ -z "$text" ]; then
            why=${text:-"$program did not answer"}
            is_there=yes
            if [ -d "$summaries" ] && [ ! -e "$summaries/$id.json" ] && [ ! -L "$summaries/$id.json" ]; then is_there=no; fi
            case $is_there,$why in
                no,*"no summary of job $id in "*) why='' ;;
            esac
            return 1
        fi
        is_old=no
        is_of_this_run || is_old=yes
        case $is_old,$text in
            yes,* | no,'still running: '*) ;;
            *) return 0 ;;
        esac
        looks=$((looks + 1))
        if [ "$looks" -ge 20 ]; then
            text="until the last collection: ${text#still running: }"
            why="nothing was recorded since its start; its summary is of an earlier run (is dcgm-exporter running?)"
            [ "$is_old" = no ]
            return
        fi
        sleep 0.25
    done
}

# plain TEXT: 'text' becomes one line of at most 500 printable characters, none of which ends or begins a quotation.
plain() {
    text=$(printf '%.500s' "$1" | tr '\n\t' '  ' | tr -cd ' -~' | tr -d "'\"\`\\\\")
}

# word TEXT: a name, or '?'.
word() {
    case $1 in
        '' | *[!A-Za-z0-9._@+-]*) word='?' ;;
        *) word=$1 ;;
    esac
}

# enter: makes the directory of the file the working directory. Whoever can change it, or one above it, could have root
# write elsewhere. Returns 1, with the reason in 'why'.
enter() {
    directory=${to%/*}
    directory=${directory:-/}
    case $to in
        */ | *//* | */./* | */../* | */. | */..)
            why="DCGM_JOB_SUMMARY_TO=$to is not the plain path of a file"
            return 1
            ;;
    esac
    if ! cd -P "$directory" 2>/dev/null; then
        why="there is no directory $directory, or it cannot be entered"
        return 1
    fi
    if [ "$(pwd -P)" != "$directory" ]; then
        why="$directory is reached over a link; name the directory itself"
        return 1
    fi
    set -- .
    above=${directory%/*}
    while [ -n "$above" ]; do
        set -- "$@" "$above"
        above=${above%/*}
    done
    # shellcheck disable=SC2046 # the words are numbers
    set -- $(stat -c '%u %a' "$@" / 2>/dev/null)
    is_last=yes
    while [ $# -ge 2 ]; do
        if [ "$1" != 0 ] && [ "$1" != "$own" ]; then
            why="$directory, or a directory above it, belongs to user $1, who could put another in its place"
            return 1
        fi
        case $is_last,$2 in
            # Sticky: nobody can put another directory in the place of root's.
            no,1???) ;;
            *[2367]? | *[2367])
                why="$directory, or a directory above it, has mode $2: others can write there"
                return 1
                ;;
        esac
        is_last=no
        shift 2
    done
    if [ "$is_last" = yes ]; then
        why="$directory cannot be looked at (stat)"
        return 1
    fi
}

# append: adds 'text' to the file as one line. Returns 1, with the reason in 'why'.
append() {
    own=$(id -u)
    enter || return 1
    file=./${to##*/}
    if [ -L "$file" ] || { [ -e "$file" ] && [ ! -f "$file" ]; }; then
        why="$to is no regular file"
        return 1
    fi
    start=''
    if [ -e "$file" ]; then
        # shellcheck disable=SC2046 # the words are numbers
        set -- $(stat -c '%u %a %h' "$file" 2>/dev/null)
        case ${1:-none},${2:-0},${3:-0} in
            "$own",*[2367]?,* | "$own",*[2367],* | 0,*[2367]?,* | 0,*[2367],*)
                why="$to has mode $2, and others can write to it; chmod go-w $to"
                return 1
                ;;
            "$own",*,1 | 0,*,1) ;;
            *)
                why="$to belongs to somebody else, or has a second name"
                return 1
                ;;
        esac
        # Half a line, from when the disk was full. Of a newline nothing is left.
        [ -z "$(tail -c 1 "$file")" ] || start='
'
    fi
    # One write at the end of the file, so lines of epilogs at the same time are whole.
    if ! { printf '%s%s\n' "$start" "$text" >>"$file"; } 2>/dev/null; then
        why="$to cannot be written"
        return 1
    fi
}

# record FIELD: writes 'text' into the job's record. Slurm's controller does not change a job that is over; its database
# does. Returns 1, with the reason in 'why'.
record() {
    job=$id
    # Of an array the id alone means all tasks.
    case ${SLURM_ARRAY_JOB_ID:-},${SLURM_ARRAY_TASK_ID:-} in
        ,* | *, | *[!0-9,]*) ;;
        *) job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID ;;
    esac
    word "${SLURM_CLUSTER_NAME:-}"
    [ "$word" != '?' ] && set -- "$1" "cluster=$word"
    field=$1
    shift
    if ! command -v sacctmgr >/dev/null 2>&1; then
        why='sacctmgr is not found; DCGM_JOB_SUMMARY_PATH may name its directory'
        return 1
    fi
    if ! { said=$(timeout -k 1 5 sacctmgr -i modify job where "jobid=$job" "$@" set "$field=$text" 2>&1 </dev/null); } \
        2>/dev/null; then
        why="sacctmgr: ${said:-no answer within 5 s}"
        return 1
    fi
}

# The first task of the job on this node, or of its batch script; not each step of one. Slurm shows only what a
# TaskEpilog writes to its standard error.
in_output() {
    case ${SLURM_STEP_ID:-batch},${ENVIRONMENT:-} in
        batch,* | 4294967291,*) ;;
        *,BATCH) return ;;
        *) [ "${SLURM_LOCALID:-0}" = 0 ] || return ;;
    esac
    if ask && [ -n "$text" ] && is_of_this_run; then printf '%s\n' "$text" >&2; fi
}

main() {
    settings
    [ "$role" = task ] || [ -n "$to" ] || return
    case $id in
        '' | *[!0-9]* | ?????????????????????*)
            say "SLURM_JOB_ID '$id' is no job id"
            return
            ;;
    esac
    if [ -z "$summaries" ]; then
        say "job $id: DCGM_EXPORTER_JOB_SUMMARY_DIR is not set"
        return
    fi
    if ! program=$(command -v dcgm-exporter); then
        say "job $id: dcgm-exporter is not found; DCGM_JOB_SUMMARY_PATH may name its directory"
        return
    fi
    if [ "$role" = task ]; then
        in_output
        return
    fi
    # Before all: a job waits for nothing that cannot be written.
    case $to in
        /* | admin-comment | comment) ;;
        *)
            say "job $id: DCGM_JOB_SUMMARY_TO=$to is neither a path nor 'admin-comment' nor 'comment'"
            return
            ;;
    esac
    if ! finished; then
        [ -n "$why" ] || return
        plain "$why"
        say "job $id: $text"
        return
    fi
    plain "$text"
    word "${SLURMD_NODENAME:-$(uname -n)}"
    node=$word
    case $to in
        /*)
            word "${SLURM_JOB_USER:-}"
            text="$(date -u +%Y-%m-%dT%H:%M:%SZ) node=$node job=$id user=$word summary=\"$text\""
            append
            ;;
        comment) text="$node: $text" && record Comment ;;
        admin-comment) text="$node: $text" && record AdminComment ;;
    esac
    # shellcheck disable=SC2181 # of whichever it was
    if [ $? -eq 0 ]; then
        say "job $id: written to $to"
    else
        plain "$why"
        say "job $id: not written: $text"
    fi
}

main
