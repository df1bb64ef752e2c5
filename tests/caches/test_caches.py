"""Caches: hits equal computed values, keys cover every input, damage is detected, limits and kills are handled."""

import itertools
import logging
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.clips import write_clip
from tests.factories import tiny_config
from tinyvid import Assistant, ConfigError, Message, Sample
from tinyvid.caches import CacheOptions, FeatureCache, FrameCache, attach, tower_key
from tinyvid.caches.digests import Digests
from tinyvid.caches.store import GIB, Store
from tinyvid.types import ImageSpec

ROOT = Path(__file__).parents[2]
IMAGE = ImageSpec(size=56, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ROWS = 1000  # float32 values of a stored vector: one entry takes slightly over 4,000 bytes


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"{number}.mp4", num_frames=12 + number) for number in range(3)]


@pytest.fixture
def assistant(assistant):
    assistant.model.vision_tower.requires_grad_(False)
    return assistant


def use(assistant, **options):
    attach(CacheOptions(**options), assistant.model, assistant.processor, assistant.config)
    return assistant.processor


def row(*videos, question="What moves?", **options):
    return Sample([Message("user", question), Message("assistant", "A dog.")], video=list(videos) or None, **options)


def small_store(folder, entries=100, **kwargs):
    return Store(folder, max_gib=entries * 4200 / GIB, name="cache.frames", **kwargs)


def value(number):
    return {"x": torch.full((ROWS,), float(number))}


def entries(folder):
    return sorted(Path(folder).glob("*.cache.safetensors"))


def keys_in(folder):
    return {path.name.removesuffix(".cache.safetensors") for path in entries(folder)}


def never(*args, **kwargs):
    raise AssertionError("decoded")


# --- hits equal computed values ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_frames_hit_is_bit_equal_and_decodes_nothing(assistant, clips, tmp_path, monkeypatch):
    plain = assistant.processor(row(clips[0]))
    processor = use(assistant, frames=str(tmp_path))
    cold = processor(row(clips[0]))
    monkeypatch.setattr("tinyvid.video.open_video.Clip.read", never)
    warm = pickle.loads(pickle.dumps(processor))(row(clips[0]))
    assert torch.equal(cold.videos[0].pixels, plain.videos[0].pixels)
    assert torch.equal(warm.videos[0].pixels, plain.videos[0].pixels)
    assert len(entries(tmp_path)) == 1


def test_jpeg_is_close_and_smaller_and_equal_on_hit_and_miss(assistant, clips, tmp_path):
    plain = assistant.processor(row(clips[0]))
    processor = use(assistant, frames=str(tmp_path / "jpeg"), format="jpeg")
    cold, warm = processor(row(clips[0])), processor(row(clips[0]))
    assert processor.frames.store.statistics.hits == 1
    assert torch.equal(cold.videos[0].pixels, warm.videos[0].pixels)
    assert 0 < (cold.videos[0].pixels - plain.videos[0].pixels).abs().mean() * 127.5 < 3
    use(assistant, frames=str(tmp_path / "uint8"))(row(clips[0]))
    sizes = [entries(tmp_path / format)[0].stat().st_size for format in ("jpeg", "uint8")]
    assert sizes[0] < sizes[1] / 2


def test_feature_hit_is_bit_equal_and_decodes_nothing(assistant, clips, tmp_path, monkeypatch):
    model, plain = assistant.model, assistant.processor
    expected = model(plain.collate([plain(row(clips[0]))]))
    processor = use(assistant, features=str(tmp_path))
    cold = processor.collate([processor(row(clips[0]))])
    assert cold.videos[0].pixels is not None
    filled = model.fill_features(cold, processor.features)
    assert filled.videos[0].pixels is None
    monkeypatch.setattr("tinyvid.video.open_video.Clip.read", never)
    warm = processor.collate([processor(row(clips[0]))])
    assert warm.videos[0].pixels is None
    assert warm.videos[0].features.shape == (4, 16, 24)
    assert warm.videos[0].features.dtype == next(model.vision_tower.parameters()).dtype
    for batch in (cold, filled, warm):
        assert torch.equal(model(batch).logits, expected.logits)


def test_features_keep_the_dtype_of_the_tower(tmp_path):
    cache = FeatureCache(tmp_path, max_gib=1, tower_key="t")
    features = torch.randn(2, 16, 24).bfloat16()
    cache.write("k", features)
    assert cache.read("k").dtype == torch.bfloat16
    assert torch.equal(cache.read("k"), features)


def test_a_batch_of_hits_misses_and_text_gives_the_same_logits(assistant, clips, tmp_path):
    rows = [row(clips[0], clips[1]), row(), row(np.zeros((3, 30, 40, 3), np.uint8)), row(clips[2]), row(clips[1])]
    plain = assistant.processor.collate([assistant.processor(r) for r in rows])
    expected = assistant.model(plain).logits
    processor = use(assistant, features=str(tmp_path))
    assistant.model.fill_features(processor.collate([processor(row(clips[1]))]), processor.features)
    mixed = processor.collate([processor(r) for r in rows])
    assert [video.features is not None for video in mixed.videos] == [False, True, False, False, True]
    assert [video.key is not None for video in mixed.videos] == [True, True, False, True, True]
    assert sum(video.pixels is not None for video in mixed.videos) == 3
    torch.testing.assert_close(assistant.model(mixed).logits, expected, atol=1e-5, rtol=0)
    filled = assistant.model.fill_features(mixed.to("cpu"), processor.features)
    torch.testing.assert_close(assistant.model(filled).logits, expected, atol=1e-5, rtol=0)
    assert len(entries(tmp_path)) == 3  # arrays in memory are not cached
    text = processor.collate([processor(row())])
    assert assistant.model.fill_features(text, processor.features).videos == ()


def test_filling_does_not_depend_on_the_batch(assistant, clips, tmp_path):
    processor = use(assistant, features=str(tmp_path))
    examples = [processor(row(clip)) for clip in clips]
    together = assistant.model.fill_features(processor.collate(examples)).videos
    alone = [assistant.model.fill_features(processor.collate([example])).videos[0] for example in examples]
    assert all(torch.equal(a.features, b.features) for a, b in zip(together, alone, strict=True))


def test_generation_reads_the_cache(assistant, clips, tmp_path):
    question = Sample([Message("user", "What moves?")], video=clips[0])
    expected = assistant.answer([question], max_new_tokens=6)
    processor = use(assistant, features=str(tmp_path), frames=str(tmp_path))
    assistant.model.fill_features(processor.collate([processor(question)]), processor.features)
    assert assistant.answer([question], max_new_tokens=6) == expected
    assert processor.features.store.statistics.hits == 1


def test_workers_read_the_cache(assistant, clips, tmp_path):
    processor = use(assistant, features=str(tmp_path / "features"), frames=str(tmp_path / "frames"))

    def load():
        rows = [row(clip) for clip in clips]
        return DataLoader(rows, 2, num_workers=2, collate_fn=lambda rows: processor.collate(list(map(processor, rows))))

    cold = [assistant.model.fill_features(batch, processor.features).videos for batch in load()]
    warm = list(load())
    for before, after in zip(cold, warm, strict=True):
        assert all(torch.equal(a.features, b.features) for a, b in zip(before, after.videos, strict=True))
    assert len(entries(tmp_path / "frames")) == len(entries(tmp_path / "features")) == 3


def test_images_and_folders_are_cached(assistant, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 50, 0, 0)).save(pictures / f"{number}.png")
    processor = use(assistant, frames=str(tmp_path / "cache"))
    single = row(pictures / "0.png")
    moving = row(*single.videos)
    moving = replace(moving, video=[replace(moving.videos[0], source=pictures, fps=1.0)])
    for sample in (single, moving):
        assert torch.equal(processor(sample).videos[0].pixels, processor(sample).videos[0].pixels)
    assert processor.frames.store.statistics.hits == 2
    assert len(entries(tmp_path / "cache")) == 2


# --- keys cover every input -------------------------------------------------------------------------------------


def test_every_input_changes_a_frame_key(clips, tmp_path):
    cache = FrameCache(tmp_path / "a", max_gib=1)
    jpeg = FrameCache(tmp_path / "b", max_gib=1, format="jpeg")
    pad = replace(IMAGE, resize="pad")
    keys = [
        cache.key(clips[0], [0, 1], IMAGE, "pyav"),
        cache.key(clips[1], [0, 1], IMAGE, "pyav"),
        cache.key(clips[0], [0, 2], IMAGE, "pyav"),
        cache.key(clips[0], [0, 1], IMAGE, "decord"),
        cache.key(clips[0], [0, 1], replace(IMAGE, size=28), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, resize="crop"), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, crop_pct=0.9), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, interpolation="bilinear"), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, interpolation="lanczos"), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, longest_edge=56), "pyav"),
        cache.key(clips[0], [0, 1], replace(IMAGE, longest_edge=64), "pyav"),
        cache.key(clips[0], [0, 1], pad, "pyav"),
        cache.key(clips[0], [0, 1], replace(pad, mean=(0.1, 0.2, 0.3)), "pyav"),
        jpeg.key(clips[0], [0, 1], IMAGE, "pyav"),
    ]
    assert len(set(keys)) == len(keys)
    assert (
        cache.key(clips[0], [0, 1], replace(IMAGE, mean=(0.1, 0.2, 0.3)), "pyav") == keys[0]
    )  # normalization is applied later


def test_every_input_changes_a_feature_key(clips, tmp_path):
    cache = FeatureCache(tmp_path / "a", max_gib=1, tower_key="one")
    other = FeatureCache(tmp_path / "a", max_gib=1, tower_key="two")
    frames = {format: FrameCache(tmp_path / format, max_gib=1, format=format) for format in ("uint8", "jpeg")}
    plain = cache.key(clips[0], [0, 1], IMAGE, "pyav", frames=None)
    keys = [
        plain,
        other.key(clips[0], [0, 1], IMAGE, "pyav", frames=None),
        cache.key(clips[1], [0, 1], IMAGE, "pyav", frames=None),
        cache.key(clips[0], [1, 1], IMAGE, "pyav", frames=None),
        cache.key(clips[0], [0, 1], replace(IMAGE, mean=(0.1, 0.2, 0.3)), "pyav", frames=None),
        cache.key(clips[0], [0, 1], replace(IMAGE, std=(0.1, 0.2, 0.3)), "pyav", frames=None),
        cache.key(clips[0], [0, 1], replace(IMAGE, longest_edge=64), "pyav", frames=None),
        cache.key(clips[0], [0, 1], IMAGE, "pyav", frames=frames["jpeg"]),
        frames["uint8"].key(clips[0], [0, 1], IMAGE, "pyav"),
    ]
    assert len(set(keys)) == len(keys)
    assert cache.key(clips[0], [0, 1], IMAGE, "pyav", frames=frames["uint8"]) == plain
    assert cache.key(np.zeros((1, 2, 2, 3), np.uint8), [0], IMAGE, "pyav", frames=None) is None


def test_start_and_end_count_as_frame_numbers(assistant, clips, tmp_path):
    processor = use(assistant, frames=str(tmp_path))
    clip = str(clips[0])
    early = processor(Sample([Message("user", "Q")], video=clip, end=0.2)).videos[0].pixels
    late = processor(Sample([Message("user", "Q")], video=clip, start=0.2)).videos[0].pixels
    assert processor.frames.store.statistics.misses == 2
    assert not torch.equal(early, late)


@pytest.mark.slow
def test_tower_key_covers_weights_layer_options_settings_and_dtype(models):
    config = tiny_config(models)

    def make(**options):
        changed = {**config, "vision_tower": {**config["vision_tower"], **options}}
        built = Assistant.from_config(changed, device="cpu")
        return built.model.vision_tower, built.config["vision_tower"]

    tower, options = make()
    key = tower_key(tower, options)
    again, moved = make()
    again.train()
    assert tower_key(again, {**moved, "path": "elsewhere"}) == key
    keys = {key, tower_key(*make(layer=-1)), tower_key(*make(select="patch")), tower_key(tower, {**options, "new": 1})}
    keys.add(tower_key(make()[0].bfloat16(), options))
    with torch.no_grad():
        next(again.parameters()).view(-1)[7] += 1e-3
    keys.add(tower_key(again, options))
    heads = make()[0]
    attention = next(module for module in heads.modules() if hasattr(module, "num_heads"))
    attention.num_heads *= 2
    keys.add(tower_key(heads, options))
    assert len(keys) == 7


@pytest.mark.slow
def test_tower_key_is_the_same_in_another_process(assistant, models):
    config = tiny_config(models)
    code = (
        "import sys, pickle; from tinyvid.build import build, check; from tinyvid.caches import tower_key\n"
        "config = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "sys.stdout.write(tower_key(build(check(config), device='cpu')[0].vision_tower, config['vision_tower']))"
    )
    argument = pickle.dumps(config).hex()
    done = subprocess.run([sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == tower_key(assistant.model.vision_tower, assistant.config["vision_tower"])


def test_keys_depend_on_content_not_on_names(tmp_path):
    digests = Digests(tmp_path / "digests")
    first, copy, other = (tmp_path / name for name in ("first.mp4", "copy.mp4", "other.mp4"))
    first.write_bytes(b"a" * 100)
    copy.write_bytes(b"a" * 100)
    other.write_bytes(b"a" * 99 + b"b")
    assert digests(first) == digests(str(copy)) != digests(other)
    before, times = digests(first), first.stat()
    first.write_bytes(b"b" * 100)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and times
    assert digests(first) != before
    assert digests(tmp_path / "absent") is None


def test_the_key_of_a_folder_covers_names_and_contents(tmp_path):
    digests = Digests(tmp_path / "digests")
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"x")
    seen = [digests(folder)]
    (folder / "2.png").write_bytes(b"y")
    seen.append(digests(folder))
    (folder / "2.png").rename(folder / "3.png")
    seen.append(digests(folder))
    (folder / "3.png").write_bytes(b"z")
    seen.append(digests(folder))
    assert len(set(seen)) == 4


def test_a_file_is_hashed_once_for_all_processes(tmp_path, monkeypatch):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"v" * 1000)
    early = Digests(tmp_path / "digests")
    with (tmp_path / "digests").open("wb") as file:
        file.write(b'["torn by a kill')
    digest = Digests(tmp_path / "digests")(video)
    monkeypatch.setattr("tinyvid.caches.digests._digest", never)
    assert Digests(tmp_path / "digests")(video) == digest
    assert early(video) == digest  # continues reading where it stopped


# --- damage is detected -----------------------------------------------------------------------------------------


def test_every_flipped_byte_is_detected(tmp_path):
    store = small_store(tmp_path)
    tensors = {"x": torch.arange(6, dtype=torch.float16).view(2, 3)}
    store.write("key", tensors)
    path = store.path("key")
    payload = path.read_bytes()
    for position in range(len(payload)):
        for flip in (1, 0x20, 0x80):
            changed = bytearray(payload)
            changed[position] ^= flip
            path.write_bytes(changed)
            found = store.read("key")
            assert found is None or (torch.equal(found["x"], tensors["x"]) and found["x"].dtype == torch.float16)
            assert found is not None or not path.exists()
    assert store.statistics.rebuilds > 2.9 * len(payload)


@pytest.mark.parametrize("length", [0, 4, 8, 60, 200, -1])
def test_a_truncated_entry_is_detected(tmp_path, length, caplog):
    store = small_store(tmp_path)
    store.write("key", value(1))
    path = store.path("key")
    path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert store.read("key") is None
        assert store.read("key") is None
    assert caplog.text.count(str(path)) == 1
    assert (store.statistics.misses, store.statistics.rebuilds) == (2, 1)
    store.write("key", value(1))
    assert torch.equal(store.read("key")["x"], value(1)["x"])


def test_damaged_entries_are_computed_again(assistant, clips, tmp_path):
    plain = [assistant.processor(row(clip)).videos[0].pixels for clip in clips]
    processor = use(assistant, frames=str(tmp_path))
    for clip in clips:
        processor(row(clip))
    one, two, three = entries(tmp_path)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())  # two entries swapped
    two.write_bytes(first)
    three.unlink()
    three.mkdir()  # it can be neither read nor replaced
    for _ in range(2):
        for clip, expected in zip(clips, plain, strict=True):
            assert torch.equal(processor(row(clip)).videos[0].pixels, expected)
    assert processor.frames.store.statistics.rebuilds >= 3


def test_a_damaged_feature_is_computed_again(assistant, clips, tmp_path):
    processor = use(assistant, features=str(tmp_path))
    filled = assistant.model.fill_features(processor.collate([processor(row(clips[0]))]), processor.features)
    path = entries(tmp_path)[0]
    payload = bytearray(path.read_bytes())
    payload[-5] ^= 4
    path.write_bytes(payload)
    miss = processor(row(clips[0]))
    assert miss.videos[0].features is None
    again = assistant.model.fill_features(processor.collate([miss]), processor.features)
    assert torch.equal(again.videos[0].features, filled.videos[0].features)
    assert torch.equal(processor(row(clips[0])).videos[0].features, filled.videos[0].features)


def test_a_full_disk_is_one_warning(assistant, clips, tmp_path, monkeypatch, caplog):
    processor = use(assistant, frames=str(tmp_path))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with caplog.at_level(logging.WARNING):
        first, second = processor(row(clips[0])), processor(row(clips[0]))
    assert torch.equal(first.videos[0].pixels, second.videos[0].pixels)
    assert caplog.text.count("No space left on device") == 1
    assert os.listdir(tmp_path).count("cache.lock") <= 1
    assert not entries(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_deleted_folder_is_created_again(tmp_path):
    store = small_store(tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert store.read("a") is None
    store.write("a", value(1))  # lost
    store.write("b", value(2))
    assert torch.equal(store.read("b")["x"], value(2)["x"])


# --- the limit --------------------------------------------------------------------------------------------------


def test_least_recently_used_entries_are_evicted(tmp_path):
    store = small_store(tmp_path, entries=5)
    for number in range(5):
        store.write(str(number), value(number))
    assert len(entries(tmp_path)) == 5
    assert store.read("0") is not None  # now the most recently used
    store.write("5", value(5))
    kept = keys_in(tmp_path)
    assert "0" in kept
    assert "5" in kept
    assert "1" not in kept
    assert kept <= {"0", "3", "4", "5", "2"}
    assert store.statistics.evictions == 6 - len(kept)
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= store.max_bytes


def test_a_lower_limit_is_applied_at_once(tmp_path):
    store = small_store(tmp_path, entries=10)
    for number in range(10):
        store.write(str(number), value(number))
    small_store(tmp_path, entries=3)
    assert 1 <= len(entries(tmp_path)) <= 3
    assert "9" in keys_in(tmp_path)


def test_an_entry_larger_than_the_limit_is_not_stored(tmp_path, caplog):
    store = Store(tmp_path, max_gib=1000 / GIB, name="cache.features")
    with caplog.at_level(logging.WARNING):
        store.write("a", value(1))
    assert "cache.max_gib allows only 1,000" in caplog.text
    assert not entries(tmp_path)


@pytest.mark.parametrize("content", ["", "x", None])
def test_a_lost_total_is_recomputed(tmp_path, content):
    store = small_store(tmp_path, entries=4)
    for number in range(4):
        store.write(str(number), value(number))
    if content is None:
        (tmp_path / "cache.bytes").unlink()
    else:
        (tmp_path / "cache.bytes").write_text(content)
    store.write("4", value(4))
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= store.max_bytes


def test_a_hit_lists_no_folder(tmp_path, monkeypatch):
    store = small_store(tmp_path)
    store.write("a", value(1))
    monkeypatch.setattr("tinyvid.caches.store.os.scandir", never)
    assert store.read("a") is not None
    store.write("b", value(2))  # a write below the limit does not list it either


def test_other_files_are_not_touched(tmp_path):
    strangers = [tmp_path / name for name in ("model.safetensors", "x.tmp", "odd.cache.tmp")]
    for path in strangers:
        path.write_bytes(b"x" * 5000)
    store = small_store(tmp_path, entries=1)
    for number in range(3):
        store.write(str(number), value(number))
    assert keys_in(tmp_path) == {"2"}
    assert all(path.exists() for path in strangers)


# --- several processes, and kills -------------------------------------------------------------------------------


def hammer(folder, seed, rounds, failures):
    store, rng = small_store(folder, entries=8), random.Random(seed)
    for _ in range(rounds):
        number = rng.randrange(20)
        found = store.read(str(number))
        if found is None:
            store.write(str(number), value(number))
        elif not torch.equal(found["x"], value(number)["x"]):
            failures.put(number)
    if store.statistics.rebuilds or not store._writes:
        failures.put(f"{store.statistics} {store._writes}")


@pytest.mark.slow
def test_processes_share_a_small_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    workers = [context.Process(target=hammer, args=(tmp_path, seed, 300, failures)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty()
    total = sum(path.stat().st_size for path in entries(tmp_path))
    assert 0 < total <= 8 * 4200
    assert int((tmp_path / "cache.bytes").read_text()) >= total
    assert not list(tmp_path.glob("*.tmp"))


def write_for_ever(folder, limit):
    store = Store(folder, max_gib=limit, name="cache.frames")
    for number in itertools.cycle(range(40)):
        store.write(str(number), {"x": torch.full((200_000,), float(number))})


@pytest.mark.slow
def test_a_killed_writer_leaves_a_usable_cache(tmp_path):
    rng = random.Random(0)
    limit = 10 * 810_000 / GIB
    context = multiprocessing.get_context("fork")
    for _ in range(30):
        writer = context.Process(target=write_for_ever, args=(tmp_path, limit))
        writer.start()
        time.sleep(rng.uniform(0.01, 0.1))
        writer.kill()
        writer.join()
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= limit * GIB
    (tmp_path / f"x@{writer.pid}@{os.uname().nodename}.cache.tmp").write_bytes(b"half")
    mine = tmp_path / f"x@{os.getpid()}@{os.uname().nodename}.cache.tmp"
    mine.write_bytes(b"being written")
    store = Store(tmp_path, max_gib=limit, name="cache.frames")
    assert list(tmp_path.glob("*.tmp")) == [mine]
    kept = keys_in(tmp_path)
    assert kept
    for key in kept:
        assert (store.read(key)["x"] == float(key)).all()
    assert store.statistics.rebuilds == 0
    store.write("new", value(1))
    assert store.read("new") is not None


def test_an_entry_is_complete_or_absent(tmp_path, monkeypatch):
    store = small_store(tmp_path)

    def stop(*args):
        assert not entries(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyvid.caches.store.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        store.write("a", value(1))
    assert not entries(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert (
        int((tmp_path / "cache.bytes").read_text()) > 4000
    )  # the total is updated first: it may be too high, never too low


# --- configuration ----------------------------------------------------------------------------------------------


def test_a_trainable_tower_is_refused(assistant, clips, tmp_path):
    next(assistant.model.vision_tower.parameters()).requires_grad_(True)
    with pytest.raises(ConfigError, match=r"1 of its weights are trainable .*cache.features=null"):
        use(assistant, features=str(tmp_path))
    processor = use(assistant, frames=str(tmp_path))  # frames do not depend on the weights of the tower
    with pytest.raises(ConfigError, match=r"cache.features"):
        assistant.model.fill_features(processor.collate([processor(row(clips[0]))]))


def test_nothing_changes_without_folders(assistant, clips):
    processor = use(assistant)
    assert processor.frames is processor.features is None
    example = processor(row(clips[0]))
    assert [(video.features, video.key) for video in example.videos] == [(None, None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "png"}, "cache.format='png' is unknown"),
        ({"max_gib": 0.0}, "cache.max_gib=0.0 must be a positive number"),
        ({"frames": __file__}, "cache.frames=.*cannot be created"),
    ],
)
def test_invalid_options_are_named(assistant, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        use(assistant, **{"frames": str(tmp_path), **options})


def test_an_unreadable_source_raises_the_error_of_the_reader(assistant, tmp_path):
    processor = use(assistant, frames=str(tmp_path), features=str(tmp_path))
    with pytest.raises(Exception, match="no such file"):
        processor(row("nowhere.mp4"))
