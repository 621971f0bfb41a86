"""SentencePiece vocabularies in GGUF files, and what SentencePiece makes of some texts.

Run through scripts/make-golden. Argument: the folder make.py wrote. Writes into gguf/:
sentencepiece.gguf (a vocabulary as Llama 2's, on tiny random weights), sentencepiece-bare.gguf
(no space in front, an end token instead of a begin token; no tensors) and <stem>.json each.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from transformers import LlamaTokenizer

from tokenizer import CORPUS

VOCABULARY = 384
HIDDEN, MLP, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 64, 96, 2, 1, 32, 128

TEXTS = [
    "",
    "a",
    "the price of a million tokens",
    "The Price of 1,234.50 tokens?",
    " leading",
    "trailing ",
    "two  spaces   three",
    "line\nbreak\r\n\ttab",
    "naïve café, Grüße, œuvre",
    "标记的价格",
    "tokens 🦀🦀 and 👩‍💻",
    "aaaaaaaaaa bbbb",
    "weightsweights",
    "under▁score",
    "x" * 40,
    "keys and values are read for each sequence; weights are read once",
]
# Recognised within a text. Here transformers decides, since SentencePiece takes text as text.
SPECIAL = ["<s>the price", "the price</s>of", "a</s></s>b", "the<unk>price"]


def train(folder, name, **more):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4), model_writer=model, model_type="bpe",
        vocab_size=VOCABULARY, byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=True,
        minloglevel=2, **more,
    )
    path = folder / f"{name}.model"
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), path


def write_vocabulary(writer, sp):
    """As llama.cpp's converter does."""
    kinds = []
    for i in range(sp.vocab_size()):
        if sp.is_unknown(i):
            kinds.append(gguf.TokenType.UNKNOWN)
        elif sp.is_control(i):
            kinds.append(gguf.TokenType.CONTROL)
        elif sp.is_byte(i):
            kinds.append(gguf.TokenType.BYTE)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([sp.id_to_piece(i) for i in range(sp.vocab_size())])
    writer.add_token_scores([sp.get_score(i) for i in range(sp.vocab_size())])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())


def write_model(writer, rng):
    writer.add_name("sentencepiece")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for name, rows, cols in [
        ("token_embd", VOCABULARY, HIDDEN), ("blk.0.attn_q", q, HIDDEN),
        ("blk.0.attn_k", kv, HIDDEN), ("blk.0.attn_v", kv, HIDDEN),
        ("blk.0.attn_output", HIDDEN, q), ("blk.0.ffn_gate", MLP, HIDDEN),
        ("blk.0.ffn_up", MLP, HIDDEN), ("blk.0.ffn_down", HIDDEN, MLP),
    ]:
        values = rng.standard_normal((rows, cols)) * 2.2 / np.sqrt(cols)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_cases(path, cases):
    text = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text(f"[\n  {text}\n]\n")


def main():
    out = Path(sys.argv[1]) / "gguf"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sp, path = train(folder, "tokenizer")
        library = LlamaTokenizer.from_pretrained(str(folder), legacy=True, add_bos_token=True)
        cases = []
        for text in TEXTS:
            ids = [sp.bos_id()] + sp.encode(text)
            # transformers 5 puts no second space before a leading one; llama.cpp does.
            assert library(text)["input_ids"] == ids or text.startswith(" "), text
            cases.append({"text": text, "ids": ids, "decoded": sp.decode(ids)})
        for text in SPECIAL:
            ids = library(text)["input_ids"]
            cases.append({"text": text, "ids": ids,
                          "decoded": library.decode(ids, skip_special_tokens=True)})
        write_cases(out / "sentencepiece.json", cases)
        writer = gguf.GGUFWriter(str(out / "sentencepiece.gguf"), "llama")
        write_vocabulary(writer, sp)
        write_model(writer, np.random.default_rng(3))
        finish(writer)

        bare, _ = train(folder, "bare", add_dummy_prefix=False)
        cases = []
        for text in TEXTS:
            ids = bare.encode(text) + [bare.eos_id()]
            cases.append({"text": text, "ids": ids, "decoded": bare.decode(ids)})
        write_cases(out / "sentencepiece-bare.json", cases)
        writer = gguf.GGUFWriter(str(out / "sentencepiece-bare.gguf"), "llama")
        write_vocabulary(writer, bare)
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(True)
        finish(writer)


if __name__ == "__main__":
    main()
