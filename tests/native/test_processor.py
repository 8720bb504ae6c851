"""Which numbers `auto` chooses follows from the platform and the processor's flags."""

import pytest

from jaxsnn.native import processor


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Return a function that fakes what the system says of its processor."""

    def fake(text):
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(processor, "CPUINFO", path)
        processor.flags.cache_clear()

    yield fake
    processor.flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "dtype", "reason"),
    [
        ("flags\t: fpu avx2 avx512_bf16 amx_bf16\n", "bfloat16", "this processor has amx_bf16"),
        ("model name\t: A flags\nflags\t: avx512_bf16\n", "bfloat16", "has avx512_bf16"),
        ("flags\t: fpu avx2 avx512f\n", "float32", "no bfloat16 instructions"),
        ("Features\t: asimd bf16\n", "float32", "no bfloat16 instructions"),
        (None, "float32", "no bfloat16 instructions"),
    ],
)
def test_auto_follows_the_flags_of_the_processor(cpuinfo, text, dtype, reason):
    cpuinfo(text)
    found, line = processor.choose_dtype("auto", platform="cpu")
    assert found == dtype and line.startswith(f"products: {dtype} (auto: ") and reason in line


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_auto_is_short_on_an_accelerator(platform):
    found, line = processor.choose_dtype("auto", platform=platform, known=())
    assert (found, line) == ("bfloat16", f"products: bfloat16 (auto: the device is a {platform})")


def test_a_named_dtype_is_what_was_asked_for():
    assert processor.choose_dtype("bfloat16") == ("bfloat16", "products: bfloat16 (as asked)")


def test_the_processor_is_asked_once(cpuinfo):
    cpuinfo("flags : avx2\n")
    before = processor.flags()
    processor.CPUINFO.unlink()
    assert processor.flags() is before == {"avx2"}
    assert processor.choose_dtype(platform="cpu")[0] == "float32"
