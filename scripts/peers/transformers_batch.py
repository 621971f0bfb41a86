"""Hugging Face transformers on random weights and random prompts: output tokens per second, for the
same load as a run of costmark.

    python3 transformers_batch.py CONFIG_FOLDER [--requests N] [--concurrency N] [--input-len N]
                                  [--output-len N] [--device cuda]

Two ways: `generate_batch`, its continuous batching, which takes as many requests at a time as it holds
right, and `generate`, one batch of --concurrency after the other.
Prints a line of JSON as soon as a way is measured, and one with an `error` where it fails; ends
with 3 where torch or transformers are missing, and 1 where no way worked.
"""

import argparse
import inspect
import json
import random
import sys
import time


def say(**fields):
    print(json.dumps(fields), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("config", help="folder with the model's config.json")
    for name, default in [("requests", 192), ("concurrency", 64), ("input-len", 1024),
                          ("output-len", 256)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        import torch
        import transformers
    except ImportError as error:
        say(skipped=f"{error}")
        return 3
    say(torch=torch.__version__, transformers=transformers.__version__)
    if args.device == "cuda" and not torch.cuda.is_available():
        say(skipped="torch sees no GPU")
        return 3

    config = transformers.AutoConfig.from_pretrained(args.config)
    draw = random.Random(1)
    prompts = [[draw.randrange(3, config.vocab_size) for _ in range(args.input_len)]
               for _ in range(args.requests)]
    generation = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=args.output_len, eos_token_id=-1, pad_token_id=0)

    def model(attention):
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(args.device):
            made = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation=attention)
        torch.set_default_dtype(torch.float32)
        # Otherwise the checkpoint's own end of sequence would end some early.
        made.generation_config = generation
        return made.eval()

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    def continuous(batch, made):
        # Where there is such an option: what is claimed and captured once is not timed again.
        known = inspect.signature(made.generate_batch).parameters
        kept = {"persistent_manager": True} if "persistent_manager" in known else {}
        out = made.generate_batch(inputs=batch, generation_config=generation, progress_bar=False,
                                  **kept)
        return sum(len(answer.generated_tokens) for answer in out.values())

    def static(batch, made):
        tokens = 0
        for begin in range(0, len(batch), args.concurrency):
            ids = torch.tensor(batch[begin:begin + args.concurrency], device=args.device)
            out = made.generate(ids, generation_config=generation,
                                attention_mask=torch.ones_like(ids))
            tokens += out.numel() - ids.numel()
        return tokens

    worked = False
    for name, way, attentions in [("generate_batch", continuous, ["paged|sdpa", "sdpa_paged"]),
                                  ("generate", static, ["sdpa"])]:
        problem = None
        for attention in attentions:
            made = None
            try:
                with torch.inference_mode():
                    made = model(attention)
                    way(prompts[:min(8, args.requests)], made)  # compiles, allocates
                    wait()
                    begin = time.monotonic()
                    tokens = way(prompts, made)
                    wait()
                    seconds = time.monotonic() - begin
            except Exception as error:  # what is missing differs from version to version
                problem = f"{type(error).__name__}: {str(error)[:300]}"
                continue
            finally:
                if hasattr(made, "destroy_cached_continuous_batching_manager"):
                    made.destroy_cached_continuous_batching_manager()
                del made
                if args.device == "cuda":
                    torch.cuda.empty_cache()
            wanted = args.requests * args.output_len
            if tokens != wanted:
                problem = f"{tokens} tokens came out, not {wanted}"
                continue
            say(way=name, attention=attention, output_tok_per_s=tokens / seconds, seconds=seconds,
                requests=args.requests, input_len=args.input_len, output_len=args.output_len)
            worked, problem = True, None
            break
        if problem:
            say(way=name, error=problem)
    return 0 if worked else 1


if __name__ == "__main__":
    sys.exit(main())
