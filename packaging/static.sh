#!/usr/bin/env bash
# Builds the static binary and shows that it is one: it names no loader and no library, and plays its demo in a root
# that holds nothing else. On Debian it needs
#   rustup target add "$(uname -m)-unknown-linux-musl" && apt-get install musl-tools binutils
# and a kernel that lets whoever runs it have a root of their own (or root itself).
#   packaging/static.sh             builds and judges target/…-unknown-linux-musl/release/orchestrator
#   packaging/static.sh dev         the same of the profile dev, which is sooner there
#   packaging/static.sh FILE        judges a binary that is there
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
asked=${1:-release}

if [ -f "$asked" ]; then
    binary=$asked
else
    target=$(uname -m)-unknown-linux-musl
    # SQLite, ring and mimalloc are C.
    export "CC_${target//-/_}=musl-gcc"
    cargo build --locked --target "$target" --profile "$asked" --bin orchestrator
    binary=${CARGO_TARGET_DIR:-target}/$target/${asked/#dev/debug}/orchestrator
fi

found=$(readelf --wide --program-headers --dynamic "$binary")
if grep -E 'INTERP|\(NEEDED\)' <<<"$found"; then
    echo "$binary is not static: it needs what stands above"
    exit 1
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cp "$binary" "$root/orchestrator"
# Who is not root has a root by a namespace of their own. Nor is anything there that the environment could name.
into=("$(command -v unshare)" --map-root-user --root="$root")
[ "$(id -u)" -ne 0 ] || into=("$(command -v chroot)" "$root")
env --ignore-environment "${into[@]}" /orchestrator demo
[ "$(ls "$root")" = orchestrator ] || { echo "the demo has left something in $root"; exit 1; }
echo "$binary is static, and has played its demo in an empty root"
