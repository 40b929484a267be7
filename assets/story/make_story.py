#!/usr/bin/env python3
"""Makes the built-in story model: the recipe behind ../story.gguf and ../story.json. README.md tells about it.

    pip install torch transformers tokenizers safetensors gguf
    make_story.py --work /tmp/story [--steps 3000] [--resume]

Every stage writes files into the work folder and is skipped where they exist, so that the script can be
run again: the stories (from the Rust example), the tokenizer, the tokens, the training, the export.
"""
import argparse, json, math, subprocess, time
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, log_softmax
from transformers import Qwen3Config, Qwen3ForCausalLM

ASSETS = Path(__file__).resolve().parent.parent
END = "<|endoftext|>"  # stands before every document: it begins one and ends the other
TRAIN_SEED, VALIDATION_SEED = 1, 2
VALIDATION_STORIES = 300
VOCABULARY = 1024
CONTEXT = 512
SHAPE = dict(hidden_size=160, intermediate_size=416, num_hidden_layers=5, num_attention_heads=6,
             num_key_value_heads=3, head_dim=32, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6)
THETA = 10000.0
PEAK_RATE, FINAL_RATE, WARM_UP = 4e-3, 4e-5, 100
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.98), 1.0
BATCH = 4  # sequences of CONTEXT tokens a step


def write_stories(work, seed, count):
    """Stories of one seed, as a list of texts."""
    path = work / f"stories-{seed}-{count}.txt"
    mark = "\x1e"
    if not path.exists():
        run = ["cargo", "run", "-q", "-p", "wootz-train", "--example", "stories", "--", "--seed", str(seed),
               "--count", str(count), "--separator", mark]
        path.write_bytes(subprocess.run(run, cwd=ASSETS.parent, check=True, stdout=subprocess.PIPE).stdout)
    return [story.rstrip("\n") for story in path.read_text().split(mark)]


def make_tokenizer(work, stories):
    """A byte-level BPE with GPT-2's way of splitting text."""
    path = work / "tokenizer.json"
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(stories[:10000], trainer)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def config():
    return Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=True, attention_bias=False, bos_token_id=0,
                       eos_token_id=0, initializer_range=0.04, attn_implementation="sdpa",
                       rope_parameters={"rope_type": "default", "rope_theta": THETA}, **SHAPE)


def new_model():
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(config())
    # The two matrices that write into the residual stream begin smaller, so that its size does not grow
    # with the number of layers.
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(weight, std=0.04 / math.sqrt(2 * SHAPE["num_hidden_layers"]))
    return model


@torch.no_grad()
def validate(model, tokenizer, stories):
    """Mean loss of a token in nats, and bits per byte, each story read from its beginning."""
    model.eval()
    nats, tokens, n_bytes = 0.0, 0, 0
    for first in range(0, len(stories), 20):
        texts = stories[first:first + 20]
        ids = [[0] + encoding.ids + [0] for encoding in tokenizer.encode_batch(texts)]
        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), -100)
        for row, document in zip(padded, ids):
            row[:len(document)] = torch.tensor(document)
        logits = model(padded[:, :-1].clamp(min=0)).logits.float()
        nats += cross_entropy(logits.flatten(0, 1), padded[:, 1:].flatten(), ignore_index=-100, reduction="sum").item()
        tokens += sum(len(document) - 1 for document in ids)
        n_bytes += sum(len(text.encode()) for text in texts)
    model.train()
    return nats / tokens, nats / math.log(2) / n_bytes


def rate(step, steps):
    """A linear warm-up, then a cosine."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    way = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * (1 + math.cos(math.pi * way)) / 2


def train(work, tokenizer, stories, validation, steps, resume):
    path, halfway = work / "weights.pt", work / "halfway.pt"
    model = new_model()
    if path.exists():
        model.load_state_dict(torch.load(path))
        return model
    encodings = tokenizer.encode_batch(stories)
    stream = torch.from_numpy(np.concatenate([np.array([0] + e.ids, np.uint16) for e in encodings]).astype(np.int64))
    del encodings
    sequences = (len(stream) - 1) // CONTEXT
    order = np.random.default_rng(1).permutation(sequences)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(stream)} tokens, "
          f"{steps * BATCH / sequences:.2f} epochs", flush=True)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [dict(params=matrices, weight_decay=WEIGHT_DECAY), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=BETAS, eps=1e-8)
    first = 0
    if resume and halfway.exists():
        state = torch.load(halfway)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log = open(work / "metrics.jsonl", "a")
    started, cpu_started, running = time.time(), time.process_time(), None
    for step in range(first, steps):
        rows = [order[(step * BATCH + b) % sequences] * CONTEXT for b in range(BATCH)]
        batch = torch.stack([stream[at:at + CONTEXT + 1] for at in rows])
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):  # products in bf16, weights and their updates in f32
            logits = model(batch[:, :-1]).logits
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        running = loss.item() if running is None else 0.97 * running + 0.03 * loss.item()
        entry = dict(step=step + 1, tokens=(step + 1) * BATCH * CONTEXT, loss=loss.item(), grad_norm=norm.item(),
                     lr=rate(step, steps))
        if (step + 1) % 500 == 0 or step + 1 == steps:
            entry["val_loss"], entry["bits_per_byte"] = validate(model, tokenizer, validation[:100])
            torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1), halfway)
        log.write(json.dumps(entry) + "\n")
        if (step + 1) % 50 == 0 or "val_loss" in entry:
            log.flush()
            speed = (step + 1 - first) * BATCH * CONTEXT
            print(f"step {step + 1}: loss {running:.4f}", f"validation {entry.get('val_loss', math.nan):.4f}",
                  f"{speed / (time.time() - started):.0f} tok/s, {speed / (time.process_time() - cpu_started):.0f} a core",
                  flush=True)
    torch.save(model.state_dict(), path)
    return model


def gguf_name(name):
    """The name of a weight in a GGUF file."""
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in plain:
        return plain[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
             "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    return f"blk.{layer}.{parts[part.removesuffix('.weight')]}.weight"


def export(path, model, tokenizer):
    """Writes the GGUF file, Q8_0 for matrices and F32 for vectors. Gives the weights as a reader will see them."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_name("story")
    writer.add_description("Continues short stories for children. Made from generated text for wootz.")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_key_length(SHAPE["head_dim"])
    writer.add_value_length(SHAPE["head_dim"])
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_vocab_size(VOCABULARY)
    vocabulary = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token == END else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    seen = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # the embedding once more
            continue
        values = weight.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
            seen[name] = weight.float()
        else:
            blocks = quantize(values, q8)
            writer.add_tensor(gguf_name(name), blocks, raw_dtype=q8)
            seen[name] = torch.from_numpy(dequantize(blocks, q8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return seen


@torch.no_grad()
def greedy(model, tokenizer, prompt, new_tokens):
    """The most likely continuation: ids, the log-probability of each, and its lead in logits over the second."""
    ids = [0] + tokenizer.encode(prompt).ids
    start, logprobs, leads = len(ids), [], []
    for _ in range(new_tokens):
        logits = model(torch.tensor([ids])).logits[0, -1]
        best = logits.topk(2)
        logprobs.append(round(log_softmax(logits, 0)[best.indices[0]].item(), 6))
        leads.append(round((best.values[0] - best.values[1]).item(), 6))
        ids.append(best.indices[0].item())
    text = tokenizer.decode(ids[start:])
    return dict(prompt=prompt, prompt_ids=ids[:start], ids=ids[start:], text=text, logprobs=logprobs, leads=leads)


@torch.no_grad()
def sample(model, tokenizer, prompt, temperature):
    """A story, from the prompt to its end."""
    ids = [0] + tokenizer.encode(prompt).ids
    while len(ids) < CONTEXT:
        logits = model(torch.tensor([ids])).logits[0, -1]
        ids.append(torch.multinomial((logits / temperature).softmax(0), 1).item())
        if ids[-1] == 0:
            break
    return tokenizer.decode(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made on the way")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--stories", type=int, default=30000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    stories = write_stories(args.work, TRAIN_SEED, args.stories)
    validation = write_stories(args.work, VALIDATION_SEED, VALIDATION_STORIES)
    tokenizer = make_tokenizer(args.work, stories)
    model = train(args.work, tokenizer, stories, validation, args.steps, args.resume)

    hf = args.work / "hf"
    model.save_pretrained(hf)
    tokenizer.save(str(hf / "tokenizer.json"))
    loss, bits = validate(model, tokenizer, validation)
    seen = export(ASSETS / "story.gguf", model, tokenizer)
    model.load_state_dict(seen, strict=False)
    model.tie_weights()
    q_loss, q_bits = validate(model, tokenizer, validation)
    model.eval()
    reference = dict(
        model="story", architecture="qwen3", parameters=sum(p.numel() for p in model.parameters()),
        corpus=dict(generator="wootz_train::stories", train_seed=TRAIN_SEED, train_stories=args.stories,
                    validation_seed=VALIDATION_SEED, validation_stories=VALIDATION_STORIES),
        training=dict(steps=args.steps, tokens=args.steps * BATCH * CONTEXT),
        validation=dict(f32=dict(loss=round(loss, 5), bits_per_byte=round(bits, 5)),
                        q8_0=dict(loss=round(q_loss, 5), bits_per_byte=round(q_bits, 5))),
        greedy=greedy(model, tokenizer, "Once upon a time", 60),
    )
    (ASSETS / "story.json").write_text(json.dumps(reference, indent=2) + "\n")
    print(json.dumps(reference["validation"]), reference["greedy"]["text"])
    torch.manual_seed(3)
    prompts = ["Once upon a time"] * 4 + ["In a small house near the woods", "One day, a girl named Lily", "Tom had a red kite.", ""]
    text = "\n\n---\n\n".join(sample(model, tokenizer, prompt, 0.8) for prompt in prompts)
    (args.work / "samples.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
