#!/bin/sh
# Teaches the built-in story model to talk like a pirate, in about a minute, and shows it before and after.
#
#   runs/pirate.sh [FOLDER]
#
# The samples are 200 stories that the model tells itself, with other ends to their sentences. An adapter of 0.2 million
# parameters learns from them. WOOTZ names the program, where it is not in the PATH.
set -eu

out=${1:-runs/pirate}
wootz=${WOOTZ:-wootz}
mkdir -p "$out"

i=0
while [ $i -lt 200 ]; do
    echo '{"prompt": "Once upon a time"}'
    i=$((i + 1))
done > "$out/prompts.jsonl"
"$wootz" generate story --batch-file "$out/prompts.jsonl" --echo -n 250 -s 1 > "$out/stories.txt"

# A sample a story: lines between "==> N <==", as one string of JSON.
awk '
    function flush() {
        if (text == "") return
        gsub(/\\/, "\\\\", text); gsub(/"/, "\\\"", text); gsub(/\t/, " ", text)
        printf "{\"text\": \"%s\"}\n", text
        text = ""
    }
    /^==> [0-9]+ <==$/ { flush(); next }
    {
        gsub(/\. /, ", arr! "); sub(/\.$/, ", arr!")
        text = text (text == "" ? "" : "\\n") $0
    }
    END { flush() }
' "$out/stories.txt" | sed 's/\\\\n/\\n/g' > "$out/samples.jsonl"

"$wootz" sft story --data "$out/samples.jsonl" --epochs 2 --lr 2e-3 --runs "$out" --name model

echo "Before:"
"$wootz" generate story -p "One day a little fox" -n 60 -s 7 --echo
echo "After:"
"$wootz" generate story --adapter "$out/model" -p "One day a little fox" -n 60 -s 7 --echo
