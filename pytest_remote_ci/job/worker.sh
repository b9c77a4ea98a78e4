#!/bin/sh
# The main process of a job in an image without Python: does the work of worker.py, as far as a POSIX shell can.
# Run as `/bin/sh /ci/tools/worker.sh /ci/spool`; the command is the spool's `command`, a shell program. There are no
# marks while output grows, so stdout and stderr interleave only roughly; TERM is forwarded to the command's shell.
# A shell cannot keep a secret from other processes of the container: its last frame has no seal, and is accepted only
# once the engine has reported how the container ended.
spool=$1
asked=false
: >>"$spool/stdout"
: >>"$spool/stderr"

size() {
    wc -c <"$spool/$1" | tr -d ' '
}

frame() {
    printf '{"t": "%s", "at": %s.0, "stdout": %s, "stderr": %s%s}\n' \
        "$1" "$(date +%s)" "$(size stdout)" "$(size stderr)" "$2" >>"$spool/frames"
}

frame hello ', "worker": "1 (sh)", "python": null'
# The file contains values of secrets: delete it before the command runs.
exec 3<"$spool/command"
rm -f "$spool/command"
/bin/sh /proc/self/fd/3 </dev/null >>"$spool/stdout" 2>>"$spool/stderr" &
child=$!
trap 'asked=true; kill -TERM "$child" 2>/dev/null' TERM
frame started ", \"pid\": $child"
wait "$child"
code=$?
while $asked && kill -0 "$child" 2>/dev/null; do
    # The request to stop only interrupted the wait.
    wait "$child"
    code=$?
done
frame exit ", \"code\": $code, \"signal\": null, \"oom\": 0, \"stopped\": $asked"
exit "$code"
