#!/bin/sh
# numba reads machine code only from a folder that it may also write to, and the root file system is read-only: so what
# the image brings is copied to a folder that may be written, 10 MB in memory or on an emptyDir.
set -eu
if [ "${NUMBA_CPU_NAME:-}" = x86-64-v3 ] && ! grep -qw avx2 /proc/cpuinfo; then
    export NUMBA_CPU_NAME=generic # compiles anew, at the start
fi
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
    if mkdir -p "$NUMBA_CACHE_DIR.$$" && cp -R /opt/stream-curate/numba/. "$NUMBA_CACHE_DIR.$$"; then
        mv "$NUMBA_CACHE_DIR.$$" "$NUMBA_CACHE_DIR"
    else
        echo "stream-curate needs a folder that it may write to: mount /tmp, or set NUMBA_CACHE_DIR" >&2
        exit 3
    fi
fi
exec /opt/stream-curate/bin/stream-curate "$@"
