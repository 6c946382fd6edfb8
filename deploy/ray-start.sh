#!/bin/sh
# rayscale on machines that you own, with nothing but `ray start`. The same file on every machine:
#
#   head machine:    sh deploy/ray-start.sh head
#   GPU machines:    sh deploy/ray-start.sh worker HEAD_ADDRESS
#
# Before: the same ~/.ray/auth_token on all of them (`ray get-auth-token --generate` on one, then copy), one Python
# environment with rayscale, a directory that all of them mount, and a firewall that keeps strangers from Ray's ports.
set -eu
export RAY_AUTH_MODE=token
export RAYSCALE_STORAGE=/FILL-IN/rayscale  # a directory that all machines mount, or s3://bucket/prefix
test -s "$HOME/.ray/auth_token" || { echo "expected a token in ~/.ray/auth_token" >&2; exit 2; }
ulimit -n 65536 2>/dev/null || true

case "${1:-}" in
  head)
    ray start --head --num-cpus=0 --port=6379 --dashboard-host=127.0.0.1
    ;;
  worker)
    ray start --address="${2:?expected the address of the head}:6379" --resources="$(rayscale node-resources)"
    ;;
  *)
    echo "usage: $0 head | worker HEAD_ADDRESS" >&2
    exit 2
    ;;
esac
