#!/bin/sh
# Looks every 60 s (INTERVAL) who is well, and says who should have the work from now on: the first of the instances
# named that is. It prints a line each time that this changes, and "none" while nobody is well.
set -eu

folder=$(mktemp -d)
mkfifo "$folder/states"
orchestrator health --instances "$@" --watch --interval "${INTERVAL:-60s}" --output json >"$folder/states" &
watch=$!
trap 'kill "$watch" 2>/dev/null || :' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
exec 3<"$folder/states"
rm -r "$folder"

now=
while read -r states <&3; do
    next=none
    for instance in "$@"; do
        case $states in
        *"\"$instance\":\"healthy\""* | *"\"$instance\":\"busy\""*)
            next=$instance
            break
            ;;
        esac
    done
    if [ "$next" != "$now" ]; then
        now=$next
        echo "$now"
    fi
done
wait "$watch"
