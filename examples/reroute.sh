#!/bin/sh
# Looks every 60 s (INTERVAL) who is well, and says who should have the work from now on: the first of the instances
# named that is. It prints a line each time that this changes, and "none" while nobody is well.
set -eu

now=
orchestrator health --instances "$@" --watch --interval "${INTERVAL:-60s}" --output json |
    while read -r states; do
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
