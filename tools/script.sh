#!/bin/sh
# Makes gateway/web/static/stepup.js of its source, gateway/web/script/stepup.js. With --print it only shows what would be written.
# tools/setup.sh test installs terser into tests/node/node_modules.
set -eu
cd -P "$(dirname "$0")/.."
made=$(tests/node/node_modules/.bin/terser gateway/web/script/stepup.js --ecma 2022 --compress passes=3,unsafe_arrows=true,pure_getters=true --mangle)
case ${1:-} in
--print) printf '%s' "$made" ;;
*) printf '%s' "$made" >gateway/web/static/stepup.js ;;
esac
