#!/usr/bin/env bash
# Compares orlop with nginx serving the same files, in one run, and prints ratios' raw material.
#
#   tests/bench/compare.sh SCRIPTS STATIC WORK [PART...]
#
# SCRIPTS  the folder of the side-by-side scripts (nginx_static.sh, fetch_bench.py, wrk_bench.py,
#          herd.py, stub_upstream.py, startup.py, delayproxy.rs) with `workload/` in it
# STATIC   a static mirror tree made by mkstatic.py out of a CARGO_HOME that fetched the workload;
#          that CARGO_HOME stands beside it as `ch-fetch`
# WORK     a scratch folder
# ORLOP    (environment) the program to measure [default: target/dist/orlop, which is built unless NO_BUILD is set]
# PART     warm cold latency wrk wrk_files herd idle (default: all)
#
# Needs nginx, wrk, python3 with aiohttp, rustc. Everything listens on loopback and ends with the script.
set -euo pipefail
scripts=$(readlink -f "$1") static=$(readlink -f "$2") work=$(mkdir -p "$3" && readlink -f "$3"); shift 3
parts=${*:-warm cold latency wrk wrk_files herd idle}
top=$(cd "$(dirname "$0")/../.." && pwd)
orlop=${ORLOP:-$top/target/dist/orlop}
[ -n "${NO_BUILD:-}" ] || (cd "$top" && cargo build --profile dist --quiet)

pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; }
trap cleanup EXIT
export BENCH=$work
cd "$work"
for name in $(env | grep -oE '^ORLOP_[A-Z_]+' || true); do unset "$name"; done

gz=$work/static_gz
if [ ! -d "$gz" ]; then
  cp -r "$static" "$gz"
  find "$gz/index" -type f ! -name '*.gz' -exec gzip -9 -k {} +
fi
nginx() { bash "$scripts/nginx_static.sh" "$@"; }
wait_for() { for _ in $(seq 200); do curl -fso /dev/null "$1" && return; sleep 0.05; done; echo "no answer from $1" >&2; exit 1; }
start_orlop() { # NAME PORT UPSTREAM [VAR=VALUE...]: prints the pid
  local name=$1 port=$2 upstream=$3; shift 3
  env ORLOP_LOG_FILTER=warn "$@" "$orlop" serve --listen "127.0.0.1:$port" --data "$work/data-$name" --upstream "$upstream" \
    >"$work/$name.out" 2>"$work/$name.log" &
  pids+=($!); last=$!
  wait_for "http://127.0.0.1:$port/readyz"
}
fill() { # PORT: has everything fetched once
  python3 "$scripts/fetch_bench.py" -n 1 -w "$scripts/workload" "fill=http://127.0.0.1:$1/index/" >/dev/null
}

nginx_pid=$(nginx "$static" 7310); pids+=("$nginx_pid")
gz_pid=$(GZSTATIC=on nginx "$gz" 7312); pids+=("$gz_pid")
up=http://127.0.0.1:7310/index/
start_orlop hot 7380 "$up"; hot=$last
fill 7380

for part in $parts; do
  echo "== $part"
  case $part in
    warm)
      python3 "$scripts/fetch_bench.py" -n "${RUNS:-5}" -w "$scripts/workload" --src "$(dirname "$static")/ch-fetch" \
        nginx=http://127.0.0.1:7310/index/ orlop=http://127.0.0.1:7380/index/ extract=extract | tail -4 ;;
    cold)
      empty="kill \$(cat $work/cold.pid) 2>/dev/null; sleep 0.5; rm -rf $work/data-cold; ORLOP_LOG_FILTER=warn $orlop serve --listen 127.0.0.1:7381 --data $work/data-cold --upstream $up >/dev/null 2>$work/cold.log & echo \$! >$work/cold.pid; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; curl -fso /dev/null http://127.0.0.1:7381/readyz && break; done"
      python3 "$scripts/fetch_bench.py" -n "${RUNS:-5}" -w "$scripts/workload" \
        nginx=http://127.0.0.1:7310/index/ "orlop-cold=http://127.0.0.1:7381/index/|$empty" | tail -3
      kill "$(cat "$work/cold.pid")" 2>/dev/null || true ;;
    latency)
      [ -x "$work/delayproxy" ] || rustc -O "$scripts/delayproxy.rs" -o "$work/delayproxy" 2>/dev/null
      "$work/delayproxy" 7410 7310 10 >/dev/null 2>&1 & pids+=($!)
      "$work/delayproxy" 7480 7380 10 >/dev/null 2>&1 & pids+=($!)
      sleep 0.3
      python3 "$scripts/fetch_bench.py" -n "${RUNS:-3}" -w "$scripts/workload" \
        nginx-10ms=http://127.0.0.1:7410/index/ orlop-10ms=http://127.0.0.1:7480/index/ | tail -3 ;;
    wrk)
      python3 "$scripts/wrk_bench.py" --static "$static" --conns 32 --dur 4 --rounds "${RUNS:-3}" --tests "${TESTS:-c30k,mix400,idxsmall,idxserde304,idxserdegz}" \
        "nginx,http://127.0.0.1:7312,/crates/{crate}/{crate}-{version}.crate,/index,$gz_pid" \
        "orlop,http://127.0.0.1:7380,/api/v1/crates/{crate}/{version}/download,/index,$hot" ;;
    wrk_files)
      if [ ! -d "$work/data-files" ]; then cp -r "$work/data-hot" "$work/data-files"; fi
      start_orlop files 7382 "$up" ORLOP_HTTP_HOT_CACHE=0
      fill 7382
      python3 "$scripts/wrk_bench.py" --static "$static" --conns 32 --dur 4 --rounds "${RUNS:-3}" --tests "${TESTS:-c30k,mix400,c1m}" \
        "nginx,http://127.0.0.1:7312,/crates/{crate}/{crate}-{version}.crate,/index,$gz_pid" \
        "orlop-files,http://127.0.0.1:7382,/api/v1/crates/{crate}/{version}/download,/index,$last"
      kill "$last" ;;
    herd)
      python3 "$scripts/stub_upstream.py" 7340 "$static" & pids+=($!)
      wait_for http://127.0.0.1:7340/_stats
      rm -rf "$work/data-herd"
      start_orlop herd 7383 http://127.0.0.1:7340/index/
      python3 "$scripts/herd.py" --pre 'sleep 11' --static "$static" http://127.0.0.1:7340 'http://127.0.0.1:7383/api/v1/crates/{crate}/{version}/download'
      kill "$last" ;;
    idle)
      kill "$hot"; sleep 1
      python3 "$scripts/startup.py" http://127.0.0.1:7380/readyz -- "$orlop" serve --listen 127.0.0.1:7380 --data "$work/data-hot" --upstream "$up" ;;
    *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done
