#!/bin/sh
# Token shards of Tiny Shakespeare, the same ids as llm.c's dev/data/tinyshakespeare.py makes: GPT-2's vocabulary, a
# document a paragraph, and the first 32,768 tokens for validation.
#
#   runs/tinyshakespeare.sh [TEXT] [FOLDER]
#
# TEXT (1.1 MB) is not part of wootz:
#   curl -L -o input.txt https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
#
# Expect 305,260 tokens to train on. WOOTZ names the program, where it is not in the PATH.
set -eu

text=${1:-input.txt}
out=${2:-data/tinyshakespeare}
wootz=${WOOTZ:-wootz}

if [ ! -f "$text" ]; then
    echo "$0: there is no $text; the head of this script says where to get it" >&2
    exit 1
fi
"$wootz" data prepare "$text" --out "$out" --name tiny_shakespeare --tokenizer gpt2 --blank-lines --val-first 32768
"$wootz" data view "$out" --documents 2 --tokens 40
