#!/bin/sh
# Token shards of TinyStories (Eldan and Li, 2023: https://arxiv.org/abs/2305.07759), the version written by GPT-4, with
# its own validation set.
#
#   runs/tinystories.sh [TRAIN] [VALID] [FOLDER]
#
# TRAIN (2.2 GB) and VALID (22 MB) are not part of wootz; see their page for the licence:
#   base=https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main
#   curl -L -O $base/TinyStoriesV2-GPT4-train.txt -O $base/TinyStoriesV2-GPT4-valid.txt
#
# TOKENIZER names the vocabulary. GPT-2's is the default, as in llm.c; a small model is better off with a small one:
#   wootz tokenizer train TinyStoriesV2-GPT4-train.txt --vocab-size 4096 --out stories4096.json
# WOOTZ names the program, where it is not in the PATH.
set -eu

train=${1:-TinyStoriesV2-GPT4-train.txt}
valid=${2:-TinyStoriesV2-GPT4-valid.txt}
out=${3:-data/tinystories}
wootz=${WOOTZ:-wootz}

for text in "$train" "$valid"; do
    if [ ! -f "$text" ]; then
        echo "$0: there is no $text; the head of this script says where to get it" >&2
        exit 1
    fi
done
"$wootz" data prepare "$train" --val "$valid" --out "$out" --tokenizer "${TOKENIZER:-gpt2}" --trim
"$wootz" data view "$out" --documents 1
