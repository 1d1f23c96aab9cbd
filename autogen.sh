#!/bin/sh
# Creates configure. Needs autoconf, automake and pkg-config.
set -e
cd "$(dirname "$0")"
autoreconf -i --force
