#!/bin/sh
# Slurm's prolog and epilog for dcgm-exporter: which job has which GPU, one small file for each GPU.
#
# As prolog it adds the job to the files of its GPUs and writes job.<id> with what a prolog knows of the job. As epilog it
# takes the job out of every file, whatever its variables say: an epilog may come with other GPUs than the prolog saw, or
# without a prolog. Which of the two it is, its argument says, else Slurm, else its own name (prolog.sh, epilog.sh).
#
# Settings are read from /etc/dcgm-exporter/environment, which the exporter reads, too:
#   DCGM_HPC_JOB_MAPPING_DIR  the directory; /run/dcgm-job-map by default
#   DCGM_JOB_MAP_GRES         how gres.conf counts. 'index' (the default): in the order of nvidia-smi, as AutoDetect=nvml
#                             has it without MIG. 'uuid': by the UUIDs in CUDA_VISIBLE_DEVICES, which Slurm has there for
#                             MIG and, since 25.11, for GPUs. Else the device files in the order of gres.conf, separated
#                             by blanks: DCGM_JOB_MAP_GRES="/dev/nvidia3 /dev/nvidia2 /dev/nvidia[0-1]"
#   DCGM_JOB_MAP_MAX_DAYS     jobs older than this have lost their epilog and go; 30 by default, 0 is never
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
nl='
'

# say TEXT: to the system's log and to whoever runs this, which is slurmd's log. A system's log that does not listen any
# more holds neither a job nor the lock.
say() {
    printf 'dcgm-exporter %s: %s\n' "$role" "$1"
    timeout 1 logger -t dcgm-exporter -- "$role: $1" 9>&- 2>/dev/null
    return 0
}

settings() {
    dir=${DCGM_HPC_JOB_MAPPING_DIR:-}
    gres=${DCGM_JOB_MAP_GRES:-}
    days=${DCGM_JOB_MAP_MAX_DAYS:-}
    file=${DCGM_EXPORTER_ENVIRONMENT_FILE:-/etc/dcgm-exporter/environment}
    if [ -f "$file" ] && [ -r "$file" ]; then
        while IFS='=' read -r key value || [ -n "$key" ]; do
            value=${value#[\"\']}
            value=${value%[\"\']}
            case $key in
                DCGM_HPC_JOB_MAPPING_DIR) dir=${dir:-$value} ;;
                DCGM_JOB_MAP_GRES) gres=${gres:-$value} ;;
                DCGM_JOB_MAP_MAX_DAYS) days=${days:-$value} ;;
            esac
        done <"$file"
    fi
    dir=${dir:-/run/dcgm-job-map}
    gres=${gres:-index}
    case $days in
        '' | *[!0-9]*) days=30 ;;
    esac
}

# A name that will be a file's.
add() {
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
    case $gres,${CUDA_VISIBLE_DEVICES:-} in
        uuid,GPU-* | uuid,MIG-*) wanted=$CUDA_VISIBLE_DEVICES ;;
        uuid,*) gres=index ;;
    esac
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
    minor=${device##*nvidia}
    case $minor in
        '' | *[!0-9]*) reject "$position (DCGM_JOB_MAP_GRES has no device file for it)" ;;
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

# without FILE ID: the lines of a file but this one, to standard output. Returns 0 if the line was there and the others
# were written.
without() {
    was_there=1
    while read -r line || [ -n "$line" ]; do
        case $line in
            "$2") was_there=0 ;;
            '') ;;
            *) printf '%s\n' "$line" 2>/dev/null || return 2 ;;
        esac
    done <"$1"
    return "$was_there"
}

# forget ID: takes a job out of every file. One that nobody is left in goes; a reader sees the others whole, before or
# after.
forget() {
    drop=''
    kept=no
    set +f
    for path in "$dir"/*; do
        name=${path##*/}
        if [ ! -f "$path" ] || [ -L "$path" ]; then continue; fi
        case $name in
            job.*) continue ;;
        esac
        without "$path" "$1" >"$new/$name"
        case $? in
            0) if [ -s "$new/$name" ]; then kept=yes; else drop="$drop$new/$name$nl$path$nl"; fi ;;
            1) drop="$drop$new/$name$nl" ;;
            *)
                # The others of that file matter more.
                drop="$drop$new/$name$nl"
                full=", but there is no room to write $path without it"
                ;;
        esac
    done
    set -f
    IFS=$nl
    # shellcheck disable=SC2086 # a list of names, a line each
    rm -f $drop "$dir/job.$1"
    unset IFS
    [ "$kept" = no ] || in_place
}

# What was written aside takes its place, each file at once.
in_place() {
    set +f
    mv -f "$new"/* "$dir"/
    moved=$?
    set -f
    return "$moved"
}

# fact KEY VALUE: a line of job.<id>. A value is one line, and not endless.
fact() {
    case $2 in
        '' | '(null)') ;;
        *"$nl"*) ;;
        *) printf '%s=%.256s\n' "$1" "$2" ;;
    esac
}

facts() {
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
}

# Writes everything aside first and puts it in place at once: what cannot be written whole changes nothing.
remember() {
    for name in $names; do
        if [ -d "$dir/$name" ]; then
            reject "$name (a directory)"
            continue
        fi
        {
            if [ -f "$dir/$name" ] && [ ! -L "$dir/$name" ]; then
                without "$dir/$name" "$id"
                [ $? -ne 2 ] || return 1
            fi
            printf '%s\n' "$id" 2>/dev/null
        } >"$new/$name" || return 1
    done
    facts >"$new/job.$id" 2>/dev/null || return 1
    in_place
}

old_jobs() {
    [ "$days" -gt 0 ] || return 0
    found=$(find "$dir" -maxdepth 1 -type f -name 'job.[0-9]*' -mtime "+$days" -printf '%f ')
    for old in $found; do
        forget "${old#job.}"
        unused="$unused '${old#job.}', older than $days days"
    done
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
    fi
    if [ ! -d "$dir" ] || [ ! -r "$dir" ] || [ ! -w "$dir" ]; then
        if [ "$role" = prolog ] || [ -e "$dir" ]; then
            say "job $id: $dir is no directory that can be written; nothing is changed"
        else
            say "job $id is over; no job map is here"
        fi
        return
    fi
    # The directory itself is the lock, so that nothing else lies in it.
    exec 9<"$dir"
    if ! flock -w 5 9; then
        say "job $id: somebody else has held $dir for 5 s; nothing is changed"
        return
    fi
    new=$dir/.new
    # Left by one that was killed.
    [ ! -e "$new" ] || rm -rf "$new"
    if ! mkdir "$new" 2>/dev/null; then
        say "job $id: $dir cannot be written; nothing is changed"
        return
    fi
    if [ "$role" = epilog ]; then
        forget "$id"
        rmdir "$new"
        say "job $id is over$full"
    else
        old_jobs
        if remember; then
            rmdir "$new"
            say "job $id has$names${unused:+; not used:$unused}"
        else
            rm -rf "$new"
            say "job $id: $dir cannot be written; nothing is changed"
        fi
    fi
}

main
