import hashlib
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0
from torchvision.transforms.v2 import Compose, Normalize, Resize, ToDtype

from artgan.download import SQUEEZENET, Published
from artgan.errors import UserError
from artgan.metrics import features
from artgan.metrics.features import load_features
from tests.helpers import ROOT, Hostile, serving

SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "squeezenet" / "squeezenet1_0.pth"
PAINTINGS = SHARED / "data" / "chinese_paintings"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state dict of a SqueezeNet that was never trained."""
    return squeezenet(tmp_path / "weights.pth", seed=0)


@pytest.fixture
def server(web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where the name `squeezenet` fetches its weights."""
    folder, address = web
    publish_as(f"{address}/squeezenet1_0-00000000.pth", monkeypatch)
    return folder


def publish_as(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the name `squeezenet` mean weights at an address that ends in their checksum."""
    name = url.rpartition("/")[2]
    published = Published(name, url, name.rpartition("-")[2].removesuffix(".pth"))
    monkeypatch.setitem(features.PUBLISHED, "squeezenet", published)


def squeezenet(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    torch.save(squeezenet1_0().state_dict(), path)
    return path


def pictures(count: int, height: int, width: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), generator=random, dtype=torch.uint8)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def weights_in(folder: Path) -> list[Path]:
    """What lies there, but for locks."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def publish(server: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts weights where the name `squeezenet` looks, and gives where torch is to keep them."""
    file = squeezenet(server / "weights.pth", seed=0)
    name = f"squeezenet1_0-{digest(file)}.pth"
    file.rename(server / name)
    address = features.PUBLISHED["squeezenet"].url.rpartition("/")[0]
    publish_as(f"{address}/{name}", monkeypatch)
    return server.parent / "torch" / "hub" / "checkpoints" / name


@pytest.mark.parametrize("size", [(64, 64), (300, 260)])
def test_squeezenet_is_that_of_torchvision(weights: Path, size: tuple[int, int]) -> None:
    images = pictures(3, *size)
    network = squeezenet1_0().eval()
    network.load_state_dict(torch.load(weights))
    means, deviations = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    prepare = Compose(
        [
            ToDtype(torch.float32, scale=True),
            Resize((224, 224), antialias=True),
            Normalize(means, deviations),
        ]
    )
    with torch.no_grad():
        expected = network.features(prepare(images)).mean(dim=(2, 3)) / 12
    computed = load_features(str(weights))(images)
    assert computed.dtype == torch.float32
    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-6)
    assert expected.std(dim=0).max() > 1e-3  # so that equality says something


def test_features_bear_the_name_of_their_weights(weights: Path, tmp_path: Path) -> None:
    extract = load_features(str(weights))
    assert extract.name == f"squeezenet1_0-{digest(weights)}"
    assert extract.dimension == 512
    other = load_features(str(squeezenet(tmp_path / "other.pth", seed=1)))
    assert other.name == f"squeezenet1_0-{digest(tmp_path / 'other.pth')}" != extract.name


def test_a_picture_has_the_same_features_in_any_company(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH", 4)
    images = pictures(7, 32, 32)
    extract = load_features(str(weights))
    together = extract(images)
    assert together.shape == (len(images), 512)
    assert not together.requires_grad
    assert torch.equal(together, extract(images))
    apart = torch.cat([extract(images[[index]]) for index in (0, 5, 6)])
    torch.testing.assert_close(together[[0, 5, 6]], apart, rtol=1e-4, atol=1e-6)


def test_a_progress_bar_counts_pictures(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extract = load_features(str(weights))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    extract(pictures(2, 32, 32), progress="looking")
    assert "looking: 100%" in capsys.readouterr().err
    extract(pictures(2, 32, 32))
    assert not capsys.readouterr().err


def test_weights_of_the_old_file_format_are_read(weights: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.pth"
    torch.save(torch.load(weights), old, _use_new_zipfile_serialization=False)
    images = pictures(2, 32, 32)
    assert torch.equal(load_features(str(old))(images), load_features(str(weights))(images))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torch-fidelity's Inception that was never trained."""
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3",
        reason="torch-fidelity is not installed; squeezenet's tests need it not",
    )

    class Untrained(module.FeatureExtractorInceptionV3):  # type: ignore[name-defined]
        def load_state_dict(self, *_: object, **__: object) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    untrained = Untrained("untrained", ["2048"], feature_extractor_weights_path=nothing)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(untrained.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_is_that_of_torch_fidelity(inception: Path) -> None:
    from torch_fidelity import FeatureExtractorInceptionV3

    images = pictures(3, 48, 40)
    extract = load_features(str(inception))
    assert (extract.name, extract.dimension) == (f"inception-{digest(inception)}", 2048)
    reference = FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=inception
    )
    computed = extract(images)
    assert computed.shape == (3, 2048)
    assert torch.equal(computed, reference(images)[0])


def test_inception_by_name_is_downloaded_and_verified(
    inception: Path, web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = web
    name = f"weights-inception-2015-12-05-{digest(inception)}.pth"
    (folder / name).symlink_to(inception)
    published = Published(name, f"{address}/{name}", digest(inception))
    monkeypatch.setitem(features.PUBLISHED, "inception", published)
    assert load_features("inception").name == f"inception-{digest(inception)}"
    assert (folder.parent / "torch" / "hub" / "checkpoints" / name).is_file()


@pytest.mark.parametrize("by_name", [True, False])
def test_inception_says_how_to_install_torch_fidelity(
    inception: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'pip install "artgan\[metrics\]".*features=none'):
        load_features("inception" if by_name else str(inception))


def test_squeezenet_needs_no_torch_fidelity(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert load_features(str(weights)).dimension == 512


def test_the_published_address_ends_in_a_checksum() -> None:
    assert SqueezeNet1_0_Weights.DEFAULT.url == SQUEEZENET.url
    assert SQUEEZENET.url.endswith(f"/squeezenet1_0-{SQUEEZENET.sha256}.pth")
    assert features.INCEPTION.url == URL_INCEPTION_V3
    assert features.INCEPTION.url.endswith(f"-{features.INCEPTION.sha256}.pth")


def test_weights_are_downloaded_once(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = publish(server, monkeypatch)
    first = load_features("squeezenet")
    assert f"{first.name}.pth" == kept.name
    assert [kept] == weights_in(kept.parent)
    assert not capsys.readouterr().out  # results are printed there
    (server / kept.name).unlink()
    images = pictures(2, 32, 32)
    assert torch.equal(load_features("squeezenet")(images), first(images))


def test_no_connection_is_a_clear_error(
    web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(web[0]) as address:
        pass  # nobody listens at this address any more
    publish_as(f"{address}/squeezenet1_0-00000000.pth", monkeypatch)
    with pytest.raises(UserError, match=r"Connection refused.*=PATH.*=none"):
        load_features("squeezenet")


def test_a_missing_file_is_named_with_the_choices(tmp_path: Path) -> None:
    for path in ("inceptoin", str(tmp_path)):
        with pytest.raises(UserError, match=f"no file {path}. features takes inception, squeezen"):
            load_features(path)


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_hostile_weights_are_refused_and_run_nothing(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    content = {"features.0.weight": torch.zeros(96, 3, 7, 7), "more": Hostile(proof)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"evil\.pth: .*Nothing in it was run\. features takes"):
        load_features(str(path))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(2)}, "is a state dict of neither"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "is a state dict of neither"),
        ({"features.0.weight": torch.zeros(96, 3, 7, 7)}, "do not fit squeezenet1_0"),
        (torch.zeros(2), "holds more than a state dict"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "else.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"else\.pth: .*{message}.*features takes inception"):
        load_features(str(path))


def test_an_inception_of_other_shapes_is_refused(inception: Path, tmp_path: Path) -> None:
    state = torch.load(inception)
    state["fc.weight"] = torch.zeros(1000, 2048)  # as torchvision's Inception has it
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: its tensors do not fit inception .*fc\."):
        load_features(str(tmp_path / "other.pth"))


def test_a_missing_device_is_a_clear_error(weights: Path) -> None:
    missing = "cuda:9" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"device: there is no {missing}"):
        load_features(str(weights), missing)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
def test_a_gpu_gives_the_same_features(weights: Path) -> None:
    images = pictures(3, 64, 64)
    on_gpu = load_features(str(weights), "cuda")(images)
    expected = load_features(str(weights))(images)
    torch.testing.assert_close(on_gpu, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and PAINTINGS.is_dir()),
    reason="trained weights or real paintings are not on this machine; "
    "test_squeezenet_is_that_of_torchvision needs neither",
)
def test_trained_weights_tell_kinds_of_paintings_apart() -> None:
    extract = load_features(str(WEIGHTS))
    assert extract.dimension == 512
    kinds = []
    for kind in ("landscape", "figure"):
        files = sorted((PAINTINGS / kind).iterdir())[:24]
        arrays = [np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in files]
        kinds.append(extract(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)))
    assert all(kind.shape == (24, 512) and kind.std(dim=0).mean() > 0.1 for kind in kinds)
    # The nearest other painting is of the same kind far more often than by chance.
    rows = torch.nn.functional.normalize(torch.cat(kinds))
    similarity = (rows @ rows.T).fill_diagonal_(-1)
    same = (similarity.argmax(dim=1) < 24) == (torch.arange(48) < 24)
    assert same.float().mean() > 0.7
