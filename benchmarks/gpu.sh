#!/usr/bin/env bash
# Builds, tests and measures on a machine with a GPU and no network, in at most 8 minutes. A stage that fails
# does not stop the others; the exit code is then 1. Run from anywhere in a checkout.
usage="usage: benchmarks/gpu.sh [--only test|bench|train] [--out DIR] [--wheels DIR] [--device cuda|cpu] [--quick]
                        [--train RECIPE... --minutes N --data DIR [--from DIR] [--set KEY=VALUE]...]

--only     test: build, tests marked cuda, compute-sanitizer. bench: build, spectral and training benchmarks. train: build,
           training. Without it: all, training if --train is given.
--out      where gpu_<name>.json goes (results/), and the trained models: models.tar.NN has weights in float16, cards,
           curves, and small checkpoints to resume from, in pieces under 16 MB: cat models.tar.* | tar x
--wheels   Python packages that the machine lacks, as wheels
--train    train these recipes one after another for --minutes, with the data set in --data; --from: resume from the
           pieces that an earlier call wrote there
--device   cpu: a dry run, written to dry_run.json; --quick: seconds instead of minutes for the benchmarks"

set -u
only=all out='' wheels='' device=cuda quick='' recipes=() minutes='' data='' from='' settings=()
die() { printf '%s\n' "$1" >&2; exit 2; }
while (($#)); do
    case $1 in
        --quick) quick=--quick; shift; continue ;;
        -h | --help) echo "$usage"; exit ;;
    esac
    (($# > 1)) || die "$1: a value is missing
$usage"
    case $1 in
        --only) only=$2 ;;
        --out) out=$2 ;;
        --wheels) wheels=$2 ;;
        --device) device=$2 ;;
        --minutes) minutes=$2 ;;
        --data) data=$2 ;;
        --from) from=$2 ;;
        --set) settings+=(--set "$2") ;;
        --train)
            while (($# > 1)) && [[ $2 != --* ]]; do recipes+=("$2"); shift; done
            shift; continue ;;
        *) die "$1: unknown
$usage" ;;
    esac
    shift 2
done
[[ $only =~ ^(all|test|bench|train)$ ]] || die "--only: got $only, expected test, bench or train"
[[ $device =~ ^(cuda|cpu)$ ]] || die "--device: got $device, expected cuda or cpu"
if ((${#recipes[@]})); then
    [[ $minutes =~ ^[0-9]+$ && -n $data ]] || die "--train: --minutes N and --data DIR are needed with it"
elif [[ $only == train ]]; then
    die "--only train: --train RECIPE is missing"
fi

for folder in out wheels data from; do
    [[ -z ${!folder} ]] || printf -v "$folder" '%s' "$(realpath -m -- "${!folder}")"
done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=${out:-$PWD/results}

python=${PYTHON:-}
[[ -n $python ]] || { [[ -x .venv/bin/python ]] && python=.venv/bin/python || python=python3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/stages.tsv"
end=$((SECONDS + 480)) failed=0
unset TORCH_CUDA_ARCH_LIST # the GPU's own
export FREQROB_NATIVE=require PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if [[ -n $wheels ]]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl || exit 2
    PYTHONPATH=$work/site:$PYTHONPATH
fi

# stage NAME SECONDS COMMAND...: runs it, prints the end of its log and its result; exit code 77: not possible here
stage() {
    local name=$1 limit=$2 began=$SECONDS code=124 result=passed
    shift 2
    ((limit < end - SECONDS)) || limit=$((end - SECONDS))
    echo "== $name, at most $limit s"
    if ((limit > 5)); then
        timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1
        code=$?
    else
        echo "no time is left" >"$work/$name.log"
    fi
    case $code in
        0) tail -n 12 "$work/$name.log" ;;
        77) result="not here: $(tail -n 1 "$work/$name.log")" ;;
        124 | 137) result="stopped after $limit s" ;;
        *) result="failed with $code" ;;
    esac
    if [[ $code != 0 && $code != 77 ]]; then
        failed=1
        tail -n 60 "$work/$name.log"
    fi
    echo "== $name: $result, $((SECONDS - began)) s"
    printf '%s\t%s\t%s\n' "$name" "$result" $((SECONDS - began)) >>"$work/stages.tsv"
    return $code
}

# shellcheck disable=SC2329 # called through bash -c
cuda_tests() {
    mapfile -t files < <(grep -rlE 'mark.*cuda' --include 'test_*.py' tests)
    ((${#files[@]})) || { echo "no tests are marked cuda"; return 77; }
    "$python" -m pytest -q -m cuda -p no:cacheprovider "${files[@]}"
}

# shellcheck disable=SC2329
sanitizer() { # TOOL
    local tool filter=()
    tool=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
    [[ $device == cuda && -n $tool ]] || { echo "no compute-sanitizer"; return 77; }
    "$tool" --help | grep -q kernel-regex && filter=(--kernel-regex kns=freqrob) # cuFFT's kernels are not ours
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$tool" --tool "$1" --error-exitcode 9 --report-api-errors no "${filter[@]}" \
        "$python" -m benchmarks.gpu short --device cuda 2>&1 | tee "$work/$1.full"
    local code=${PIPESTATUS[0]}
    grep -q 'SUMMARY' "$work/$1.full" || { grep -m 1 'not supported' "$work/$1.full" && return 77; }
    return "$code"
}
export -f cuda_tests sanitizer
export python device work

name=$("$python" -m benchmarks.gpu name --device "$device") || die "no GPU, or Python packages are missing"
echo "$name, $("$python" --version)"
mkdir -p "$out"

if stage build 150 "$python" -m benchmarks.gpu build --device "$device"; then
    if [[ $only =~ ^(all|test)$ ]]; then
        stage short 40 "$python" -m benchmarks.gpu short --device "$device"
        stage tests 110 bash -c cuda_tests
        stage memcheck 50 bash -c 'sanitizer memcheck'
        stage racecheck 50 bash -c 'sanitizer racecheck'
    fi
    if [[ $only =~ ^(all|bench)$ ]]; then
        left=$((end - SECONDS - 75)) # for training
        ((left < 240)) || left=240
        stage spectral "$left" "$python" -m benchmarks.spectral --device "$device" ${quick:+"$quick"} \
            --minutes "$(awk "BEGIN { print ($left - 25) / 60 }")" --out "$work/spectral.json"
        cp "$work/spectral.log" "$work/table" 2>/dev/null
        measure=("$python" -m benchmarks.training --device "$device" --repeats 5)
        if [[ -n $quick ]]; then
            stage training 60 "${measure[@]}" --quick --out "$work/training_1.json"
        else
            stage training_rn18 40 "${measure[@]}" --architecture rn18 --out "$work/training_1.json"
            stage training_wrn34 35 "${measure[@]}" --architecture wrn34 --repeats 3 --only standard pgd_at \
                --out "$work/training_2.json"
        fi
    fi
    if ((${#recipes[@]})) && [[ $only =~ ^(all|train)$ ]]; then
        end=$((SECONDS + 60 * minutes + 90))
        stage train $((60 * minutes + 80)) "$python" -m benchmarks.train_for --minutes "$minutes" --data "$data" \
            --out "$out" ${from:+--from "$from"} "${settings[@]}" "${recipes[@]}"
    fi
fi

if [[ -f $work/table ]]; then cat "$work/table"; fi
if [[ $only =~ ^(all|bench)$ ]]; then "$python" -m benchmarks.gpu record --device "$device" --work "$work" --out "$out" || failed=1; fi
column -t -s $'\t' "$work/stages.tsv" 2>/dev/null || cat "$work/stages.tsv"
exit $failed
