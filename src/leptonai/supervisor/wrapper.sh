#!/bin/sh
# Runs the command of one attempt and records how it ended. Starts in the attempt's folder.
#
#   wrapper.sh MV IDENTITY DIRECTORY [CGROUP ...] -- COMMAND [ARGUMENT ...]
#
# MV         the mv program, by its full path: PATH belongs to the command
# IDENTITY   what the claim says after the pid and its start time, up to the closing "."
# DIRECTORY  where the command starts
#
# Nothing is forked but the command, and all is inside a function, which the shell has read as a whole
# before it runs: an upgrade may replace this file under a shell that runs it.

born() {
    shift 21
    _lepton_started=$1
}

main() {
    # The prefix keeps these apart from the variables of the command, which are exported.
    _lepton_mv=$1 _lepton_identity=$2 _lepton_directory=$3
    shift 3

    # /proc/self is this shell, which opens it: no fork, hence no doubt whose start time it is.
    read -r _lepton_stat </proc/self/stat
    born $_lepton_stat

    # The claim is the first effect. Under noclobber the file is created with O_EXCL, so of all starts
    # of this attempt exactly one gets past this line. It is written before the command is forked, so
    # whoever finds an empty claim and no wrapper knows that the command never ran.
    _lepton_unwritten=
    set -C
    { printf '%s\n' "started $$ $_lepton_started $_lepton_identity" || _lepton_unwritten=1; } >claim || exit 75
    set +C
    [ -z "$_lepton_unwritten" ] || exec "$_lepton_mv" status failed.claim

    # A program that signals its process group means itself, not the record of its end. ":" and not ""
    # because an ignored signal would stay ignored in the command.
    trap : HUP INT QUIT USR1 USR2 PIPE ALRM TERM

    (
        # The command enters its cgroup, this shell stays outside: it outlives a kill of the whole
        # group, to write down the exit status.
        # Version 1 has a file to move one thread alone, and this process has no other: that spares
        # the kernel a lock over all processes, which takes it some 15 ms (0.1 ms without).
        while [ "$1" != -- ]; do
            _lepton_entrance=$1/cgroup.procs
            [ -e "$1/tasks" ] && _lepton_entrance=$1/tasks
            echo 0 >"$_lepton_entrance" || exec "$_lepton_mv" status failed.cgroup
            shift
        done
        shift
        # A stop renames this file first and signals then. Whoever it did not yet find in the cgroup,
        # or found with the traps from above, gets here afterwards and misses the file.
        [ -e goal.run ] || exit 143
        cd "$_lepton_directory" || exec "$_lepton_mv" status failed.directory
        unset OLDPWD
        command -v "$1" >/dev/null || {
            printf '%s\n' "command not found: $1"
            exit 127
        }
        exec "$@" 2>&1
    )
    _lepton_code=$?

    # The shell makes the record itself where it can: that spares the start of a program. Not where
    # the status is gone (then this counts as lost), nor over what the command may have left there.
    set -C
    if [ -e status ] && [ ! -e "exited.$_lepton_code" ] && { :; } >"exited.$_lepton_code"; then
        exit 0
    fi

    # No more children, so nobody inherits this; and mv must not die of a late signal to the group.
    trap '' HUP INT QUIT USR1 USR2 PIPE ALRM TERM
    # A rename needs no room on the disk, and exec needs no room for a process.
    unset LD_PRELOAD LD_LIBRARY_PATH
    exec "$_lepton_mv" -f status "exited.$_lepton_code"
}

main "$@"
