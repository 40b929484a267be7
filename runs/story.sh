#!/bin/sh
# The built-in story model: assets/story.gguf, and what assets/story.json says of it.
#
#   runs/story.sh [FOLDER]
#
# It learns 60,000 of the built-in stories once over, which takes two cores about a quarter of an hour. WOOTZ names the
# program, where it is not in the PATH. The same program and instruction set give the same file, bit for bit, on any
# number of threads; another instruction set rounds differently, and gives another model of the same kind.
set -eu

out=${1:-runs/story}
wootz=${WOOTZ:-wootz}
mkdir -p "$out"

"$wootz" tokenizer train stories:20000 --vocab-size 1024 --out "$out/tokenizer.json"
"$wootz" data prepare stories:60000 --tokenizer "$out/tokenizer.json" --out "$out/data" --trim --val-fraction 0.005
"$wootz" train --model story --data "$out/data" --batch 4 --seq 512 --steps 7500 --lr 4e-3 --warmup 200 \
    --final-lr 0.01 --beta2 0.98 --dtype bf16 --val-every 500 --val-batches 1000 --save-every 500 \
    --runs "$out" --name model
"$wootz" quantize "$out/model" "$out/story.gguf" --type Q8_0
