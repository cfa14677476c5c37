"""Who has seen the beginning of a conversation."""

from hypothesis import given
from hypothesis import strategies as st

from deployment.engines.prefix import BLOCK_CHARS, MAX_BLOCKS, PrefixMemory, block_hashes, text_of


def test_only_whole_blocks_and_only_so_many_count() -> None:
    assert block_hashes("m", "x" * (BLOCK_CHARS - 1)) == []
    assert len(block_hashes("m", "x" * (2 * BLOCK_CHARS + 5))) == 2
    assert len(block_hashes("m", "x" * (BLOCK_CHARS * (MAX_BLOCKS + 9)))) == MAX_BLOCKS


def test_releases_share_nothing() -> None:
    assert not set(block_hashes("a", "x" * 640)) & set(block_hashes("b", "x" * 640))


def test_the_text_is_what_the_model_reads() -> None:
    asked = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]}
    longer = {"messages": [*asked["messages"], {"role": "assistant", "content": "Hello"}]}
    assert text_of(longer).startswith(text_of(asked))
    assert text_of({"system": "s", "prompt": "p"}) == "s\0p"
    assert text_of({"prompt": None}) == "\0"


@given(st.text(max_size=600), st.text(max_size=600), st.text(max_size=600))
def test_what_matches_is_the_common_beginning(common: str, one: str, other: str) -> None:
    memory = PrefixMemory(10_000)
    memory.learn(block_hashes("m", common + one))
    matched = memory.matched(block_hashes("m", common + other)) * BLOCK_CHARS
    assert (common + one)[:matched] == (common + other)[:matched]
    assert matched >= len(common) // BLOCK_CHARS * BLOCK_CHARS


def test_it_forgets_the_oldest_and_tails_first() -> None:
    memory = PrefixMemory(4)
    first, second = block_hashes("m", "a" * 256), block_hashes("m", "b" * 192)
    memory.learn(first)
    memory.learn(second)
    assert len(memory) == 4
    assert memory.matched(second) == 3
    assert memory.matched(first) == 1
    memory.forget()
    assert memory.matched(second) == 0
