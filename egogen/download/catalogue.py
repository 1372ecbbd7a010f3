"""What is published, where, under which licence, how large, and where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from egogen.layout import data_root, run_features, weights_root

RepoType = Literal["model", "dataset"]
MB, GB = 10**6, 10**9
# Frames and float16 features shrink little in an archive; its directory tells exactly once it is here.
UNPACKED_SHARE = 1.1


@dataclass(frozen=True)
class Source:
    """One thing to fetch: files of a hub repository, or one file of a plain URL.

    Args:
        what: what it is.
        licence: as its publisher states it.
        size: bytes, roughly; the exact ones come from the server.
        repo: the repository's id on the hub.
        repo_type: its type.
        files: the files to take, by the ends of their paths; `*` matches within a name. Empty: all.
        url: of a single file.
        sha256: of that file, or the first digits of it.
        folder: where files go below the group's root.
        dataset: whose features they are.
    """

    what: str
    licence: str
    size: int
    repo: str = ""
    repo_type: RepoType = "model"
    files: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    folder: str = ""
    dataset: str = ""


@dataclass(frozen=True)
class Group:
    """Sources that go to one root.

    Args:
        root: the folder they go to.
        contents: how archives and files are laid out there.
        sources: by the names that `--what` takes.
    """

    root: Callable[[], Path]
    contents: Literal["dataset", "features", "weights"]
    sources: dict[str, Source]


LEGO = "CC BY 4.0, on top of Llama 2 and Stable Diffusion 1.5"
NOT_STATED = "not stated"
OPENAI_CLIP = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
TORCHVISION = {"squeezenet1_1-b8a52dc0": 5, "alexnet-owt-7be5be79": 244, "vgg16-397923af": 553}  # MB


def weights(what: str, licence: str, size: int, repo: str) -> Source:
    """All of a repository of weights, which goes to a folder of its name."""
    return Source(what, licence, size, repo, folder=repo.rpartition("/")[2])


def features(dataset: str, title: str, size: int, repo: str) -> Source:
    """The authors' features of a data set."""
    what = f"the authors' image and text features of {title}"
    return Source(what, NOT_STATED, size, f"bolinlai/LEGO-VLLM-Features-{repo}", "dataset", dataset=dataset)


def torchvision(name: str, size: int) -> Source:
    """A network under LPIPS; its sum is in its file's name."""
    url = f"https://download.pytorch.org/models/{name}.pth"
    what = f"torchvision's {name.partition('-')[0]} under LPIPS"
    return Source(what, "BSD-3-Clause (torchvision)", size, url=url, sha256=name.rpartition("-")[2])


CATALOGUE = {
    "dataset": Group(
        data_root,
        "dataset",
        {
            "lego-dataset": Source(
                "about 145,000 pairs of frames of Ego4D and EPIC-KITCHENS with labels and descriptions",
                "card: Apache-2.0; frames: Ego4D's agreement, EPIC-KITCHENS-100 CC BY-NC 4.0",
                6 * GB, "bolinlai/LEGO-Dataset", "dataset",
            )
        },
    ),
    "features": Group(
        run_features,
        "features",
        {
            "ego4d": features("ego4d", "Ego4D", 290 * GB, "Ego4D"),
            "epickitchen": features("epickitchen", "EPIC-KITCHENS", 210 * GB, "EpicKitchens"),
        },
    ),
    "weights": Group(
        weights_root,
        "weights",
        {
            "lego-ego4d": weights(
                "the authors' checkpoints of both stages for Ego4D, and the jointly trained one",
                LEGO, 42 * GB, "bolinlai/LEGO-Ego4D",
            ),
            "lego-epickitchens": weights(
                "the authors' checkpoints of both stages for EPIC-KITCHENS",
                LEGO, 42 * GB, "bolinlai/LEGO-EpicKitchens",
            ),
            "sd15": weights(
                "Stable Diffusion 1.5, where stage 2 starts",
                "CreativeML OpenRAIL-M", 4_265 * MB, "bolinlai/SD1.5-pretrained",
            ),
            "llava": weights(
                "LLaVA on Llama 2 13B, where stage 1 starts",
                "Llama 2 community licence", 26 * GB, "liuhaotian/llava-llama-2-13b-chat-lightning-preview",
            ),
            "clip": Source(
                "CLIP ViT-L/14, the eye of LLaVA; found beside it",
                "MIT (OpenAI's code; the card states none)", 1_710 * MB, "openai/clip-vit-large-patch14",
                files=("*.json", "merges.txt", "model.safetensors"), folder="openai/clip-vit-large-patch14",
            ),
        },
    ),
    "metrics": Group(
        weights_root,
        "weights",
        {
            "lego-metrics": Source(
                "EgoVLP (both), BLIP base and large, DistilBERT", NOT_STATED, 6 * GB, "bolinlai/LEGO-Metrics",
                files=("egovlp.pth", "epic_mir_plus.pth", "model_base_caption_capfilt_large.pth",
                       "model_large_caption.pth", "distilbert-base-uncased/*"),
            ),
            "clip-score": Source(
                "OpenAI's CLIP ViT-L/14 for the CLIP score", "MIT", 933 * MB, sha256=OPENAI_CLIP,
                url=f"https://openaipublic.azureedge.net/clip/models/{OPENAI_CLIP}/ViT-L-14.pt",
            ),
            "inception": Source(
                "Inception v3 of the FID", "Apache-2.0", 96 * MB, sha256="6726825d",
                url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
            ),
            **{name.partition("-")[0]: torchvision(name, size * MB) for name, size in TORCHVISION.items()},
        },
    ),
}  # fmt: skip
