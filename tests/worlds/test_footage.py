"""Plans, sources and sets of the footage world: balance, what may not be asked, splits by source, errors."""

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.clips import real_video
from tests.worlds.footage_sources import (
    READER,
    drawn,
    panning,
    playing,
    with_cut,
    write_frames,
    write_photo,
    write_sources,
)
from tinyvid import ConfigError, DataError
from tinyvid.data.datasets import RowDataset
from tinyvid.worlds.footage import FAMILIES, FootageOptions, FootageWorld, clips, write_set
from tinyvid.worlds.footage.drawing import View, boxes, camera
from tinyvid.worlds.footage.loading import Loader
from tinyvid.worlds.footage.plan import draw_plan, half_of
from tinyvid.worlds.footage.pool import LEAST_SIZE, MAX_UPSCALING, MediaFile
from tinyvid.worlds.footage.questions import answers, ask, kept
from tinyvid.worlds.layout import frame_times, sampled_times

SMALL = {"sizes": ["96x96"], "seconds": [2.0], "fps": [8.0]}
FILES = {"crf": [23], "codecs": ["h264"], "reader": READER}


@pytest.fixture(scope="module")
def asked():
    """Plans with their answers, and the questions that are kept."""
    forms, found = ["open", "choice", "yesno"], []
    for plan, moments, rng in plans(4000):
        told = answers(plan, moments)
        families = kept(told, rng, list(FAMILIES), forms)
        found += [
            (told[family], question)
            for family in families
            for question in ask(plan, told, family, rng, formats=forms, num=1, duration=3.0)
        ]
    return found


def plans(count, num_frames=24, frames=8):
    moments = sampled_times(num_frames, frames)
    for index in range(count):
        rng = np.random.default_rng([4, index])
        yield draw_plan(rng, moments), moments, rng


def world(folder, **options):
    return FootageWorld(FootageOptions(source=str(folder), **{"split": "all", **SMALL, **options}), READER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("source"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- balance ----------------------------------------------------------------------------------------------------


def chance(question):
    """How often a viewer who sees nothing is right."""
    if question.format == "choice":
        return 1 / len(question.options)
    return 1 / len(FAMILIES[question.family].replies) if question.format == "open" else 0.5


@pytest.mark.slow
def test_blind_viewers_are_right_by_chance(asked):
    """One learns the most common reply to each question, one the most common right option."""
    asked = [question for _, question in asked if question.span is None]
    first, second = asked[::2], asked[1::2]
    learned = defaultdict(Counter)
    for question in first:
        learned[question.family, question.format, question.text if question.format == "yesno" else ""][
            question.answer
        ] += 1
    right, expected = defaultdict(list), {}
    for question in second:
        counts = learned[question.family, question.format, question.text if question.format == "yesno" else ""]
        options = question.options or list(counts)
        right[question.family, question.format].append(question.answer == max(options, key=lambda one: counts[one]))
        expected[question.family, question.format] = chance(question)
    assert len(right) == 15 + 2 * 12  # all families in all of their formats
    for kind, values in right.items():
        error = np.sqrt(expected[kind] * (1 - expected[kind]) / len(values))
        assert np.mean(values) < expected[kind] + 4 * error, kind
    letters = Counter((len(each.options), each.reply) for each in asked if each.format == "choice")
    for (number, _), count in letters.items():
        total = sum(found for (other, _), found in letters.items() if other == number)
        assert abs(count / total - 1 / number) < 4 * np.sqrt(1 / number / total)
    for family in FAMILIES:
        replies = [question.reply for question in asked if question.family == family and question.format == "yesno"]
        assert not replies or abs(replies.count("yes") / len(replies) - 0.5) < 2 / np.sqrt(len(replies)), family


@pytest.mark.slow
def test_all_answers_of_a_family_are_equally_likely(asked):
    counts = defaultdict(Counter)
    for answer, question in asked:
        counts[question.family][answer] += 1
    for family, kind in FAMILIES.items():
        number = 1 if kind.times else len(kind.replies) or 2
        total, shares = sum(counts[family].values()), counts[family].values()
        assert len(shares) == number, family
        assert total > 300, family
        assert all(abs(count / total - 1 / number) <= 4 * np.sqrt(1 / number / total) for count in shares), family


@pytest.fixture
def few_attempts(monkeypatch):
    monkeypatch.setattr(clips, "VIEWS", 3)


# --- what may be asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_frames", "frames"), [(16, 8), (48, 8), (29, 9), (60, 16)])
def test_every_event_is_seen_between_two_sampled_frames(num_frames, frames):
    for plan, moments, _ in plans(80, num_frames, frames):
        least = max(2, frames // 4)
        shots = np.searchsorted(plan.cuts, moments, side="right")
        assert len(plan.cuts) == plan.num_shots - 1
        assert all(np.sum(shots == number) >= least for number in range(plan.num_shots))
        events = [*plan.cuts, *(plan.frozen or ()), *([plan.patch.appears] if plan.patch else [])]
        inside = [time for time in events if 0 < time < 1]
        assert all(time * num_frames == pytest.approx(round(time * num_frames)) for time in inside)  # a frame begins
        assert all(moments[0] < time < moments[-1] for time in inside)
        if plan.frozen:
            start, end = plan.frozen
            assert np.sum((moments > start) & (moments < end)) >= least
            assert end == 1 or np.sum(moments > end) >= 2
            assert not plan.patch or plan.patch.appears < start
            stopped = (moments > start) & (moments < end)
            assert np.ptp(camera(plan, moments[stopped]), axis=0).max() == 0


def test_a_question_does_not_give_its_answer_away():
    for plan, moments, _ in plans(800):
        found = answers(plan, moments)
        if "cut_when" in found:
            assert len(plan.cuts) == 1
            assert found["cut_when"] == half_of(moments, plan.cuts[0]) != ""
            before = np.sum(moments < plan.cuts[0])
            assert before != len(moments) / 2  # not in the middle
        if "freeze" in found:  # something moves, and nothing stands still by itself
            assert plan.moves != ("still",)
            assert plan.course in ("freeze", "single")
            assert plan.speed == "steady"
            assert plan.num_shots == 1
        assert ("camera_first" in found) == (plan.course == "two")
        assert ("shot_return" in found) == (plan.num_shots == 3)
        assert found["shots"] == str(plan.num_shots)


def test_the_view_stays_in_the_picture_and_is_sharp():
    rng, small = np.random.default_rng(0), 0
    for plan, _, _ in plans(300):
        size = (int(rng.integers(40, 200)), int(rng.integers(40, 200)))
        frame = [(96, 96), (128, 72), (72, 128)][rng.integers(3)]
        view = View(float(rng.uniform(0.75, 1)), float(rng.random()), float(rng.random()))
        found = boxes(plan, view, size, frame, frame_times(24))
        if found is None:
            small += 1
            continue
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= size).all()
        width, height = (found[:, 2:] - found[:, :2]).T
        assert width / height == pytest.approx(frame[0] / frame[1])
        assert (height * MAX_UPSCALING >= frame[1] * 0.999).all()
    assert 20 < small < 200


def test_parts_of_videos_in_which_something_happens_are_not_used(tmp_path):
    files = {"still": playing(1), "cut": with_cut(2), "pan": panning(3), "dim": playing(4)}
    files["dim"] = (files["dim"] * np.linspace(1, 0.5, 30)[:, None, None, None]).astype(np.uint8)
    loader, found = Loader(tmp_path, READER, (96, 96)), {}
    for name, frames in files.items():
        write_frames(tmp_path / f"{name}.mp4", frames)
        file = MediaFile(f"{name}.mp4", True, 220, 180, 3.0, "")
        material = loader.read(file, 0.0, 3.0, frame_times(24))
        found[name] = (material.fault, material.moves)
        if name == "cut":
            assert loader.read(file, 0.0, 1.4, frame_times(24)).fault == ""
    assert found == {"still": ("", False), "cut": ("a cut", False), "pan": ("", True),
                     "dim": ("a change of brightness", False)}  # fmt: skip


@pytest.mark.slow
def test_nothing_is_asked_about_the_camera_if_the_content_moves_as_a_whole(tmp_path, few_attempts):
    for number in range(3):
        write_frames(tmp_path / f"{number}.mp4", panning(number))
    planned = [world(tmp_path).plan(index) for index in range(3)]
    assert all(material.moves for clip in planned for material, _ in clip.film.shots)
    assert not [kind for clip in planned for kind, _ in clip.kinds if kind.startswith(("camera", "speed"))]
    with pytest.raises(DataError, match=r"clip 0: none of 3 choices .*: a picture that moves as a whole"):
        world(tmp_path, families=["camera"]).plan(0)


def test_plain_pictures_are_not_used(tmp_path, few_attempts):
    sky = np.linspace(120, 230, 180)[:, None, None].repeat(220, 1).repeat(3, 2).astype(np.uint8)
    for number, tint in enumerate([(1, 1, 1), (0.9, 1, 0.8), (1, 0.7, 0.8)]):
        picture = (np.rot90(sky, number) * tint).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r"shows what is asked: a plain picture \(3 times\); add photos and videos"):
        world(tmp_path).plan(0)


@pytest.mark.slow
def test_videos_that_move_by_themselves_do_not_change_what_is_asked_about_others(tmp_path):
    write_sources(tmp_path, photos=3, videos=0)
    for number in range(3):
        write_frames(tmp_path / f"{number}.mp4", panning(50 + number, 10))
    asked = world(tmp_path, families=["camera"])
    assert all(asked.plan(index).questions for index in range(3))


def test_what_is_asked_about_videos_that_move_by_themselves_must_be_seen(tmp_path, few_attempts):
    for number in range(3):
        write_frames(tmp_path / f"{number}.mp4", panning(number, 10) // 8)
    with pytest.raises(DataError, match="none of 3 choices .*: a dark picture"):
        world(tmp_path).plan(0)


def test_an_answer_that_cannot_be_shown_is_not_replaced_by_another_one(tmp_path, few_attempts):
    for number in range(3):
        noise = 128 + np.random.default_rng(number).integers(-18, 18, (90, 90, 3))
        Image.fromarray(noise.astype(np.uint8)).resize((180, 180)).save(tmp_path / f"{number}.png")
    similar = world(tmp_path, families=["shots"], formats=["open"])
    with pytest.raises(DataError, match=r"clip 5: none of .*: two similar shots \(3 times\)"):
        similar.plan(5)


def test_every_path_of_the_camera_fits_into_the_smallest_files():
    rng = np.random.default_rng(0)
    for plan, _, _ in plans(400):
        for frame in ((96, 96), (128, 72), (72, 128)):
            size = tuple(int(np.ceil(LEAST_SIZE * side)) for side in frame)
            for picture in (size, (size[0] * 3, size[1]), (size[0], size[1] * 3)):
                view = View(float(rng.uniform(0.75, 1)), float(rng.random()), float(rng.random()))
                assert boxes(plan, view, picture, frame, frame_times(16)) is not None


def test_bars_are_cut_off(tmp_path):
    picture = np.zeros((220, 220, 3), dtype=np.uint8)
    picture[30:190] = 128 + np.random.default_rng(0).integers(-90, 90, (160, 220, 3))
    Image.fromarray(picture).save(tmp_path / "bars.png")
    loader = Loader(tmp_path, READER, (96, 96))
    material = loader.read(MediaFile("bars.png", False, 220, 220, 0.0, ""), 0, 0, np.zeros(1))
    assert np.asarray(material.at(0)).min((1, 2)).max() < 255
    assert abs(material.at(0).size[1] / material.at(0).size[0] - 160 / 220) < 0.02


# --- sources and splits -----------------------------------------------------------------------------------------


def names(pool):
    return {file.path for source in pool.sources for file in source.files}


def test_a_source_is_in_one_split_whatever_it_is_called(tmp_path):
    for number in range(16):
        write_photo(tmp_path / f"{number}.png", number, 110, 100)
    train, iid, both = (world(tmp_path, split=split, held_out=0.4).pool for split in ("train", "iid", "all"))
    assert names(train) | names(iid) == names(both)
    assert not names(train) & names(iid)
    assert (len(both.sources), both.found, train.found) == (16, 16, 16)
    (tmp_path / "sub").mkdir()
    for path in list(tmp_path.glob("*.png")):
        path.rename(tmp_path / "sub" / f"x{path.name}")
    again = world(tmp_path, split="train", held_out=0.4).pool
    assert [source.key for source in again.sources] == [source.key for source in train.sources]
    assert again.digest == train.digest != iid.digest


def test_the_size_of_the_clips_does_not_decide_the_split(tmp_path):
    for number in range(12):
        write_photo(tmp_path / f"{number}.png", number)
        Image.open(tmp_path / f"{number}.png").resize((110, 90)).save(tmp_path / f"{number}_small.png")
    found = {
        (size, split): names(world(tmp_path, split=split, held_out=0.5, sizes=[size], on_error="skip").pool)
        for size in ("64x64", "200x200")
        for split in ("train", "iid")
    }
    train, iid = ({name.split("_")[0].removesuffix(".png") for (_, split), every in found.items() if split == chosen
                   for name in every} for chosen in ("train", "iid"))  # fmt: skip
    assert not train & iid
    assert len(train | iid) == 12


def test_files_that_show_the_same_are_one_source(tmp_path):
    for number in range(4):
        write_photo(tmp_path / f"{number}.png", number)
    picture = Image.open(tmp_path / "0.png")
    picture.resize((150, 123)).save(tmp_path / "small.jpg", quality=70)
    write_frames(tmp_path / "scene.mp4", np.repeat(np.asarray(picture)[None], 15, 0))  # 1.5 s
    groups = {tuple(sorted(file.path for file in source.files)) for source in world(tmp_path).pool.sources}
    assert groups == {("0.png", "scene.mp4", "small.jpg"), ("1.png",), ("2.png",), ("3.png",)}
    for number in range(4, 7):
        write_photo(tmp_path / "series" / f"{number}.png", number)
    assert len(world(tmp_path).pool.sources) == 7
    assert len(world(tmp_path, group_folders=True).pool.sources) == 5


@pytest.mark.slow
def test_the_videos_of_a_package_are_three_sources():
    """Two of the four files show the same scene, once compressed until little is left."""
    pool = world(real_video("bikes.mp4").parent)
    assert sorted(len(source.files) for source in pool.pool.sources) == [1, 1, 2]
    clip = pool.plan(0)
    assert len({shot.file.path for shot in clip.shots}) == len({shot.file.digest for shot in clip.shots})
    assert next(clip.frames()).shape[1:] == (96, 96, 3)


def test_photos_alone_and_videos_alone_are_enough(tmp_path):
    photos, videos = tmp_path / "photos", tmp_path / "videos"
    write_sources(photos, photos=3, videos=0)
    write_sources(videos, photos=0, videos=3)
    for place in (photos, videos):
        clip = world(place).plan(2)
        assert clip.questions
        assert next(clip.frames()).shape == (16, 96, 96, 3)


def write_copies(place):
    for side in (150, 180, 210):
        Image.fromarray(drawn(7)).resize((side, side - 20)).save(place / f"{side}.png")


@pytest.mark.parametrize(
    ("prepare", "options", "error", "message"),
    [
        (lambda place: None, {"source": "nowhere"}, ConfigError, "source='nowhere' is not a folder; give one with"),
        (lambda place: None, {}, ConfigError, r"has 0 source\(s\). At least 3 photos or videos of different things"),
        (lambda place: write_sources(place, 0, 1), {}, ConfigError, r"has 1 source\(s\).*cut a long video into files"),
        (write_copies, {}, ConfigError,
         r"has \d source\(s\) in 3 files; files that show the same are one source"),
        (lambda place: write_sources(place, 4, 0), {"split": "iid", "held_out": 0.01}, ConfigError,
         "has 4 sources, and 0 in split=iid with held_out=0.01; at least 3 are needed: change held_out"),
        (lambda place: (write_sources(place, 4, 0) / "bad.jpg").write_bytes(b"no image"), {}, DataError,
         r"1 of 5 files cannot be used: bad.jpg \(cannot be read as an image.*on_error=skip"),
        (lambda place: write_photo(write_sources(place, 4, 0) / "icon.png", 9, 40, 40), {}, DataError,
         r"icon.png \(40x40 pixels are too few for clips of 96x96\)"),
        (lambda place: write_frames(write_sources(place, 4, 0) / "blink.mp4", playing(1, 6)), {}, DataError,
         r"blink.mp4 \(0.6 s with 6 frames are too short\)"),
    ],
)  # fmt: skip
def test_folders_that_are_not_enough_are_refused(tmp_path, prepare, options, error, message):
    prepare(tmp_path)
    with pytest.raises(error, match=message):
        world(**{"folder": options.pop("source", tmp_path), **options})


def test_files_are_left_out_on_request_and_listed(tmp_path):
    write_sources(tmp_path, 4, 0)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("not media")
    (tmp_path / ".hidden.png").write_bytes(b"")
    pool = world(tmp_path, on_error="skip").pool
    assert [name for name, _ in pool.left_out] == ["bad.mp4"] == list(pool.facts()["left_out"])
    assert len(pool.facts()["used"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split='test' is unknown"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"held_out": 1.0}, "held_out=1 must be a fraction"),
        ({"frames": 4}, "frames=4 must be at least 8; fewer cannot show three shots"),
        ({"sizes": ["65x64"]}, "sizes: '65x64' must have the form"),
        ({"families": ["cameras"]}, "families: 'cameras' is unknown. Did you mean 'camera'"),
        ({"formats": ["caption"]}, "formats: 'caption' is unknown"),
        ({"families": ["freeze"], "formats": ["open"]}, "the families freeze have no questions in the formats open"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FootageOptions(source="x", **options)


# --- sets -------------------------------------------------------------------------------------------------------


def content(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def stamps(place):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in place.rglob("*")}


@pytest.mark.parametrize("out", ["set", "sub/set", "link/set"])
def test_a_set_is_not_written_into_its_source(tmp_path, out):
    source = write_sources(tmp_path / "source", 3, 0)
    (tmp_path / "link").symlink_to(source)
    out = tmp_path / out if out.startswith("link") else source / out
    with pytest.raises(ConfigError, match="is inside source=.*its clips would become sources; choose another folder"):
        write_set(FootageOptions(source=str(source), split="all", **SMALL), out, clips=1, **FILES)
    assert len([*source.iterdir()]) == 3


@pytest.mark.slow
def test_a_set_is_written_resumed_and_reproducible(folder, tmp_path):
    before = stamps(folder)
    options = FootageOptions(source=str(folder), split="all", families=[*FAMILIES], **SMALL)
    manifest = write_set(options, tmp_path / "set", clips=4, **FILES)
    assert stamps(folder) == before
    assert (manifest["world"], manifest["counts"]["clips"], manifest["sources"]["found"]) == ("footage", 4, 10)
    rows, scenes = lines(tmp_path / "set" / "rows.jsonl"), lines(tmp_path / "set" / "scenes.jsonl")
    assert manifest["counts"]["rows"] == len(rows)
    assert [scene["clip"] for scene in scenes] == [0, 1, 2, 3]
    for number, sample in enumerate(RowDataset(path=str(tmp_path / "set" / "rows.jsonl"))):
        meta = READER.probe(sample.videos[0].source)
        assert (meta.num_frames, meta.width, meta.height, meta.fps) == (16, 96, 96, 8.0)
        assert sample.messages[-1].text == rows[number]["conversations"][1]["value"]
        assert sample.meta.get("rule") == ("span" if sample.meta["family"] in ("cut_at", "frozen") else None)
    clip = FootageWorld(options, READER).plan(2)
    decoded = READER.read(tmp_path / "set" / scenes[2]["video"], range(16)).frames
    assert np.abs(decoded.astype(int) - np.concatenate(list(clip.frames()))).mean() < 8
    write_set(options, tmp_path / "again", clips=4, workers=1, **FILES)
    assert content(tmp_path / "again") == content(tmp_path / "set")
    (tmp_path / "again").rename(tmp_path / "part.partial")
    moved = shutil.copytree(folder, tmp_path / "moved")
    write_photo(moved / "new.png", 77)
    with pytest.raises(ConfigError, match=r"interrupted set with other options \(.*source, sources\)"):
        write_set(replace(options, source=str(moved)), tmp_path / "part", clips=4, **FILES)
    write_set(options, tmp_path / "part", clips=4, **FILES)
    assert content(tmp_path / "part") == content(tmp_path / "set")
