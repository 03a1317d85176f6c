#!/bin/sh
# Slurm's prolog and epilog for dcgm-exporter: which job has which GPU, one small file per GPU.
#
# As prolog it adds the job to the files of its GPUs and writes job.<id> with what a prolog knows of the job. As epilog it
# takes the job out of every file, whatever its variables say: an epilog may come with other GPUs than the prolog saw, or
# without a prolog. Which of the two it is, its argument says, else Slurm, else its own name (prolog.sh, epilog.sh).
#
# Settings are read from /etc/dcgm-exporter/environment, which the exporter reads, too; README.md explains them:
#   DCGM_HPC_JOB_MAPPING_DIR  the directory; /run/dcgm-job-map by default
#   DCGM_JOB_MAP_GRES         how gres.conf counts: 'index' (the default), 'uuid', or what each position is
#   DCGM_JOB_MAP_GROUP        the group that may read job.<id>; root's by default
#   DCGM_JOB_MAP_MAX_DAYS     jobs older than this have lost their epilog and go; 30 by default, 0 is never
#   DCGM_JOB_MAP_PAUSE_PROFILING  features, with commas between them: a job with such a constraint profiles by itself, so
#                             the exporter does not watch profiling fields on its GPUs
#   DCGM_JOB_MAP_INSECURE     'true' uses a directory that others can change; for test beds only
#   DCGM_JOB_SUMMARY_TO       where the epilog tells what the job used; see job-summary.sh
#
# It never fails a job or drains a node: it exits with 0 whatever happens, starts nothing that stays, and says in one line
# what it did. Slurm gives it neither a search path nor a job's environment.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 022
set -f
trap 'exit 0' EXIT HUP INT TERM

# Whoever runs several scripts may give them arguments of its own.
case ${1:-},${SLURM_SCRIPT_CONTEXT:-${0##*/}} in
    prolog,* | epilog,*) role=$1 ;;
    *,*epilog*) role=epilog ;;
    *) role=prolog ;;
esac
id=${SLURM_JOB_ID:-${SLURM_JOBID:-}}
names=''
unused=''
full=''
notes=''
start=''
# Ids of jobs that are over, each between blanks.
gone=' '
nl='
'

# say TEXT: to the system's log and to whoever runs this, which is slurmd's log. A system's log that does not listen any
# more holds neither a job nor the lock.
say() {
    exec 9>&-
    printf 'dcgm-exporter %s: %s\n' "$role" "$1"
    timeout 1 logger -t dcgm-exporter -- "$role: $1" 2>/dev/null
    return 0
}

settings() {
    dir=${DCGM_HPC_JOB_MAPPING_DIR:-}
    gres=${DCGM_JOB_MAP_GRES:-}
    group=${DCGM_JOB_MAP_GROUP:-}
    insecure=${DCGM_JOB_MAP_INSECURE:-}
    days=${DCGM_JOB_MAP_MAX_DAYS:-}
    pausing=${DCGM_JOB_MAP_PAUSE_PROFILING:-}
    summary_to=${DCGM_JOB_SUMMARY_TO:-}
    file=${DCGM_EXPORTER_ENVIRONMENT_FILE:-/etc/dcgm-exporter/environment}
    if [ -f "$file" ] && [ -r "$file" ]; then
        while IFS='=' read -r key value || [ -n "$key" ]; do
            value=${value#[\"\']}
            value=${value%[\"\']}
            case $key in
                DCGM_HPC_JOB_MAPPING_DIR) dir=${dir:-$value} ;;
                DCGM_JOB_MAP_GRES) gres=${gres:-$value} ;;
                DCGM_JOB_MAP_GROUP) group=${group:-$value} ;;
                DCGM_JOB_MAP_INSECURE) insecure=${insecure:-$value} ;;
                DCGM_JOB_MAP_MAX_DAYS) days=${days:-$value} ;;
                DCGM_JOB_MAP_PAUSE_PROFILING) pausing=${pausing:-$value} ;;
                DCGM_JOB_SUMMARY_TO) summary_to=${summary_to:-$value} ;;
            esac
        done <"$file"
    fi
    dir=${dir:-/run/dcgm-job-map}
    # With a slash at its end a link would be looked through.
    dir=${dir%"${dir##*[!/]}"}
    gres=${gres:-index}
    case $days in
        '' | *[!0-9]*) days=30 ;;
    esac
    # The exporter's words for it.
    case $insecure in
        1 | t | T | TRUE | true | True) insecure=yes ;;
        *) insecure=no ;;
    esac
}

# is_name NAME: whether a file of this name may be one of a GPU. Nothing else is ever read, written or removed.
is_name() {
    case $1 in
        '' | [!A-Za-z0-9]* | job.* | *[!A-Za-z0-9.:-]*) return 1 ;;
    esac
}

# A name that will be a file's.
add() {
    if ! is_name "$1"; then
        reject "$1"
        return
    fi
    case " $names " in
        *" $1 "*) ;;
        *) names="$names $1" ;;
    esac
}

# reject TEXT: what cannot be used of a list.
reject() {
    unused="$unused '$1'"
}

# numbers LIST: the numbers of a list such as 0,2-4, one by one to the command behind it.
numbers() {
    list=$1
    shift
    while [ -n "$list" ]; do
        item=${list%%,*}
        case $list in
            *,*) list=${list#*,} ;;
            *) list='' ;;
        esac
        first=${item%-*}
        last=${item#*-}
        case $first,$last in
            *[!0-9,]* | ,* | *, | *,*,* | 0[0-9]*,* | *,0[0-9]* | ????*,* | *,????*) reject "$item" ;;
            *)
                while [ "$first" -le "$last" ]; do
                    "$@" "$first"
                    first=$((first + 1))
                done
                ;;
        esac
    done
}

# The GPUs that Slurm names, as names of files.
gpus() {
    # Global ids first. CUDA_VISIBLE_DEVICES is what the job will see, which may be counted anew within its cgroup.
    wanted=${SLURM_JOB_GPUS:-${SLURM_STEP_GPUS:-${GPU_DEVICE_ORDINAL:-${CUDA_VISIBLE_DEVICES:-}}}}
    # With MIG a position is an instance's, which only its UUID names.
    case $gres,${CUDA_VISIBLE_DEVICES:-} in
        uuid,GPU-* | *,MIG-*) wanted=$CUDA_VISIBLE_DEVICES ;;
    esac
    [ "$gres" != uuid ] || gres=index
    while [ -n "$wanted" ]; do
        one=${wanted%%,*}
        case $wanted in
            *,*) wanted=${wanted#*,} ;;
            *) wanted='' ;;
        esac
        case $one in
            '') ;;
            GPU-*[!A-Za-z0-9-]* | MIG-*[!A-Za-z0-9-]*) reject "$one" ;;
            GPU-?* | MIG-?*) add "$one" ;;
            *) numbers "$one" gpu ;;
        esac
    done
}

# gpu ID: a position in gres.conf.
gpu() {
    if [ "$gres" = index ]; then
        add "$1"
        return
    fi
    position=$1
    device=''
    at=0
    for files in $gres; do
        case $files in
            *\[*\])
                prefix=${files%%\[*}
                inside=${files#*\[}
                numbers_of_files "${inside%\]}"
                ;;
            *) next_device "$files" ;;
        esac
    done
    case $device in
        /*) minor=${device##*nvidia} ;;
        ?*)
            add "$device"
            return
            ;;
        *) minor='' ;;
    esac
    case $minor in
        '' | *[!0-9]*) reject "$position (DCGM_JOB_MAP_GRES has nothing for it)" ;;
        *) bus_id "$minor" ;;
    esac
}

# 'numbers' is in the middle of a list of its own here, whose rest is to stay.
numbers_of_files() {
    rest=$list
    from=$first
    to=$last
    numbers "$1" numbered_device
    list=$rest
    first=$from
    last=$to
}

numbered_device() {
    next_device "$prefix$1"
}

next_device() {
    [ "$at" -ne "$position" ] || device=$1
    at=$((at + 1))
}

# bus_id MINOR: by the driver's own account, which holds whatever DCGM or nvidia-smi count.
bus_id() {
    set +f
    for information in "${DCGM_JOB_MAP_DRIVER:-/proc/driver/nvidia/gpus}"/*/information; do
        [ -f "$information" ] || continue
        while IFS=':' read -r key value; do
            [ "$key: ${value##*[!0-9]}" = "Device Minor: $1" ] || continue
            set -f
            information=${information%/information}
            add "${information##*/}"
            return
        done <"$information"
    done
    set -f
    # The exporter can look it up itself.
    add "minor$1"
}

# enter: makes the map the working directory, so that everything after this is about the directory that was looked at.
# Returns 1, with the reason in 'why', for a directory that cannot be used, or that somebody else could change: whoever
# writes there books GPUs on others, and has root read and remove files by name.
enter() {
    why="$dir is no directory that can be written"
    if [ ! -d "$dir" ]; then return 1; fi
    cd -P "$dir" 2>/dev/null || return 1
    if [ ! -r . ] || [ ! -w . ]; then return 1; fi
    # Owner, mode and identity of what the path itself names, of where this is now, and of the lock, if there is one.
    # shellcheck disable=SC2046 # the words are numbers
    set -- $(stat -c '%u %a %d:%i' "$dir" . ./.lock 2>/dev/null)
    lock_owner=${7:-}
    lock_mode=${8:-}
    [ "$insecure" = no ] || return 0
    allow='on a test bed, DCGM_JOB_MAP_INSECURE=true allows it'
    if [ $# -lt 6 ]; then
        why="$dir cannot be looked at (stat)"
        return 1
    elif [ "$3" != "$6" ]; then
        why="$dir is a link and is refused; name the directory itself ($allow)"
        return 1
    fi
    if [ "$4" != 0 ] && [ "$4" != "$(id -u)" ]; then
        why="$dir belongs to user $4 and is refused; chown root $dir ($allow)"
        return 1
    fi
    case $5 in
        *[2367]? | *[2367])
            why="$dir has mode $5, others can write there, and is refused; chmod 0755 $dir ($allow)"
            return 1
            ;;
    esac
}

# lock: waits until no other script changes the map. The lock is a file that only its owner can open: flock asks for no
# more than that, so on the directory itself any user could hold it. Returns 1, with the reason in 'why'.
lock() {
    if ! command -v flock >/dev/null 2>&1; then
        why='flock is not installed (package util-linux)'
        return 1
    fi
    is_new=no
    if [ -L .lock ] || { [ -e .lock ] && [ ! -f .lock ]; }; then
        why="$dir/.lock is not a regular file; remove it"
        return 1
    elif [ -z "$lock_mode" ]; then
        is_new=yes
    elif [ "$insecure" = no ] &&
        { [ "$lock_mode" != 600 ] || { [ "$lock_owner" != 0 ] && [ "$lock_owner" != "$(id -u)" ]; }; }; then
        why="$dir/.lock has mode $lock_mode and belongs to user $lock_owner, so others may hold it; remove it"
        return 1
    fi
    # Where this fails, exec would end the shell.
    umask 077
    if { true 9<>.lock; } 2>/dev/null; then exec 9<>.lock; else
        why="$dir cannot be written"
        return 1
    fi
    umask 022
    if ! flock -w 5 9; then
        why="another prolog or epilog has held $dir/.lock for 5 s"
        return 1
    fi
}

# rewrite: takes the jobs of 'gone' out of every file, adds this job to those of 'names', and writes what differs aside,
# into .new. Files that nobody is left in are added to 'empty', a line each, which their names never have inside. Returns
# 1 if there is no room, in a prolog at once.
rewrite() {
    empty=''
    status=0
    set +f
    for path in ./*; do
        name=${path#./}
        if ! is_name "$name" || [ ! -f "$path" ] || [ -L "$path" ]; then continue; fi
        kept=''
        changed=no
        while read -r first rest || [ -n "$first" ]; do
            case $first in
                '') continue ;;
            esac
            case $gone in
                *" $first "*) changed=yes ;;
                *) kept="$kept$first${rest:+ $rest}$nl" ;;
            esac
        done <"$path"
        case "$role $names " in
            prolog*" $name "*)
                kept="$kept$id$nl"
                changed=yes
                ;;
        esac
        [ "$changed" = yes ] || continue
        if [ -z "$kept" ]; then
            empty="$empty$path$nl"
        elif ! printf '%s' "$kept" 2>/dev/null >".new/$name"; then
            rm -f "./.new/$name"
            full=", but there is no room to write $dir/$name without it"
            status=1
            [ "$role" = epilog ] || break
        fi
    done
    set -f
    return "$status"
}

# in_place: what was written aside takes its place, each file at once, so a reader sees the others whole, before or
# after; then what has nobody left goes. All names have passed is_name or are of digits.
in_place() {
    set +f
    set -- ./.new/*
    if [ -e "$1" ] && ! mv -f -- "$@" .; then
        set -f
        return 1
    fi
    set -f
    set --
    for one in $empty; do set -- "$@" "$one"; done
    # What there was no room for is left to the next script.
    if [ -z "$full" ]; then
        for one in $gone; do
            if [ -e "./.over.$one" ]; then set -- "$@" "./.over.$one"; fi
            if [ "$role,$one" != "prolog,$id" ] && [ -e "./job.$one" ]; then set -- "$@" "./job.$one"; fi
        done
    fi
    [ $# -eq 0 ] || rm -f -- "$@"
}

# fact KEY VALUE: a line of job.<id>. A value is one line, and not endless.
fact() {
    case $2 in
        '' | '(null)') ;;
        *"$nl"*) ;;
        *)
            if [ ${#2} -gt 256 ]; then
                whole_characters "$2"
                set -- "$1" "$whole"
            fi
            # Whoever reads it may use a terminal.
            case $2 in
                *[!\ -~]*) set -- "$1" "$(printf '%s' "$2" | harmless)" ;;
            esac
            printf '%s=%s\n' "$1" "$2" || are_whole=no
            ;;
    esac
}

# harmless: its input with ? for what a terminal would act on: control characters, and those of Unicode that turn or join
# the text around them.
harmless() {
    tr '\001-\037\177' '[?*]' | sed -e "$(printf 's/\302[\200-\237]/?/g
        s/\342\200[\213-\217\250-\256]/?/g
        s/\342\201[\240-\257]/?/g
        s/\357\273\277/?/g')"
}

# whole_characters TEXT: its first 256 bytes in 'whole', without half a character of UTF-8 at their end: the first byte of
# a character of two bytes or more, the first two of one of three or more, or the first three of one of four.
whole_characters() {
    whole=$(printf '%.256s' "$1")
    # shellcheck disable=SC2046 # three words
    set -- $(printf '\300-\377 \340-\377 \360-\377')
    case $whole in
        *[$1]) whole=${whole%?} ;;
        *[$2]?) whole=${whole%??} ;;
        *[$3]??) whole=${whole%???} ;;
    esac
}

# pauses: whether one of the features that the job asks for is among those of the setting. Features are whole words of a
# constraint such as 'a100&nsight', '[x|nsight]' or 'nsight*2'.
pauses() {
    blanks=$IFS
    IFS=",$blanks"
    # shellcheck disable=SC2086 # a word per feature, and the shell looks for no files
    set -- $pausing
    IFS="&|,*[]():$blanks"
    asked=no
    for word in ${SLURM_JOB_CONSTRAINTS:-}; do
        for feature in "$@"; do
            [ -z "$word" ] || [ "$word" != "$feature" ] || asked=yes
        done
    done
    IFS=$blanks
    [ "$asked" = yes ]
}

# facts: what is known of the job. Returns 1 if a line of it could not be written.
facts() {
    are_whole=yes
    fact user "${SLURM_JOB_USER:-}"
    fact uid "${SLURM_JOB_UID:-}"
    fact account "${SLURM_JOB_ACCOUNT:-}"
    fact partition "${SLURM_JOB_PARTITION:-}"
    fact cluster "${SLURM_CLUSTER_NAME:-}"
    fact restart_count "${SLURM_JOB_RESTART_COUNT:-}"
    fact array_job_id "${SLURM_ARRAY_JOB_ID:-}"
    fact array_task_id "${SLURM_ARRAY_TASK_ID:-}"
    fact job_name "${SLURM_JOB_NAME:-}"
    fact start_time "$(date +%s)"
    ! pauses || fact profiling pause
    [ "$are_whole" = yes ]
}

# Writes everything aside first and puts it in place at once: what cannot be written whole changes nothing.
remember() {
    rewrite || return 1
    for name in $names; do
        if [ -e "./.new/$name" ]; then continue; fi
        if [ -d "./$name" ] && [ ! -L "./$name" ]; then
            reject "$name (a directory)"
            continue
        fi
        printf '%s\n' "$id" 2>/dev/null >".new/$name" || return 1
    done
    umask 027
    facts 2>/dev/null >".new/job.$id" || return 1
    umask 022
    give "./.new/job.$id"
    in_place
}

# make_room: an empty directory .new, whatever one that was killed has left.
make_room() {
    set +f
    set -- ./.new/* ./.new/.[!.]*
    set -f
    if [ -d .new ] && [ ! -L .new ] && [ ! -e "$1" ] && [ ! -e "$2" ]; then return 0; fi
    rm -rf ./.new
    mkdir -m 700 ./.new 2>/dev/null
}

# give FILE...: to the group that may read it.
give() {
    [ -n "$group" ] || return 0
    case $group in
        -* | *[!A-Za-z0-9._-]*) false ;;
        *) chgrp -- "$group" "$@" 2>/dev/null ;;
    esac || notes="$notes; DCGM_JOB_MAP_GROUP: no group '$group' that can be given"
}

# Before there was a lock of its own, job.<id> could be read by everybody.
close_old_files() {
    set +f
    set --
    for path in ./job.*; do
        case ${path#./job.} in
            *[!0-9]*) continue ;;
        esac
        if [ -f "$path" ] && [ ! -L "$path" ]; then set -- "$@" "$path"; fi
    done
    set -f
    if [ $# -gt 0 ]; then
        chmod 0640 "$@"
        give "$@"
        notes="$notes; job.<id> of an earlier version now has mode 0640"
    fi
}

old_jobs() {
    [ "$days" -gt 0 ] || return 0
    found=$(find . -maxdepth 1 -type f -name 'job.[0-9]*' ! -name 'job.*[!0-9]*' -mtime "+$days" -printf '%f ')
    for old in $found; do
        gone="$gone${old#job.} "
        unused="$unused '${old#job.}', older than $days days"
    done
}

# Jobs whose epilog was over before it had the lock, or was killed.
missed() {
    set +f
    for path in ./.over.*; do
        case ${path#./.over.} in
            "$id" | '' | *[!0-9]* | ?????????????????????*) continue ;;
        esac
        gone="$gone${path#./.over.} "
        notes="$notes; job ${path#./.over.} is over, too"
    done
    set -f
}

# job_start: when the job's prolog ran, in 'start', before job.<id> goes.
job_start() {
    if [ ! -f "job.$id" ] || [ ! -r "job.$id" ] || [ -L "job.$id" ]; then return; fi
    while IFS='=' read -r key value; do
        [ "$key" != start_time ] || start=$value
    done <"job.$id"
}

main() {
    settings
    case $id in
        '' | *[!0-9]* | ?????????????????????*)
            say "SLURM_JOB_ID '$id' is no job id; nothing is changed"
            return
            ;;
    esac
    case $dir in
        /*) ;;
        *)
            say "DCGM_HPC_JOB_MAPPING_DIR '$dir' is not absolute; nothing is changed"
            return
            ;;
    esac
    if [ "$role" = prolog ]; then
        gpus
        if [ -z "$names" ]; then
            say "job $id has no GPU${unused:+; not used:$unused}"
            return
        fi
        [ -d "$dir" ] || mkdir -p "$dir" 2>/dev/null
    elif [ ! -e "$dir" ] && [ ! -L "$dir" ]; then
        say "job $id is over; no job map is here"
        return
    fi
    if ! enter; then
        say "job $id: $why; nothing is changed"
        return
    fi
    [ "$role" = prolog ] || job_start
    # Who comes next does what this one does not come to.
    [ "$role" = prolog ] || { true >".over.$id"; } 2>/dev/null
    if ! lock; then
        [ "$role" = prolog ] || why="$why; the next prolog or epilog takes the job out"
        say "job $id: $why; nothing is changed"
        return
    fi
    if ! make_room; then
        say "job $id: $dir cannot be written; nothing is changed"
        return
    fi
    [ "$is_new" = no ] || close_old_files
    # This job, too: one that is requeued after its epilog was lost may have had other GPUs.
    gone=" $id "
    missed
    if [ "$role" = epilog ]; then
        rewrite
        in_place
        say "job $id is over$full$notes"
        return
    fi
    old_jobs
    if remember; then
        say "job $id has$names${unused:+; not used:$unused}$notes"
    else
        rm -rf ./.new
        say "job $id: $dir cannot be written; nothing is changed"
    fi
}

main
# The lock has been given back: the exporter needs a moment to finish the summary.
if [ "$role" = epilog ] && [ -n "$summary_to" ]; then
    real=$(readlink -f "$0")
    # The prolog's time, by the clock of this node, before the controller's.
    start=${start:-${SLURM_JOB_START_TIME:-}}
    if [ -x "${real%/*}/job-summary.sh" ]; then SLURM_JOB_START_TIME=$start "${real%/*}/job-summary.sh" epilog; fi
fi
