#!/bin/sh
# usage: keep_ptxas_log.sh NVCC ARGUMENTS...
# Runs the compiler; what it says goes to OBJECT.ptxas, and to the screen where it fails.
object=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
if [ -z "$object" ]; then
  exec "$@"
fi
if "$@" 2>"$object.ptxas"; then
  exit 0
fi
status=$?
cat "$object.ptxas" >&2
exit "$status"
