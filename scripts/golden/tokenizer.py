"""A byte-level BPE tokenizer small enough for a tiny vocabulary."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "the price of a million tokens on this hardware is the price of an hour divided by the "
    "tokens it brings, and the margin is what is left of the price charged for them",
    "weights are read once for a whole batch; keys and values are read for each sequence",
]


def make_tokenizer(folder, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == vocab_size, tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
