"""Networks that others published in transformers format: a folder, or a name on the Hugging Face hub.

No code and no kernels of a folder or the hub are run. transformers is imported only when a network is loaded, because
the import takes seconds.
"""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.digests import SUMS, unlisted_files
from pipeline.errors import NetworkError, first_line

log = logging.getLogger(__name__)

ATTENTION = ("eager", "sdpa")  # of transformers and torch themselves
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of transformers: nothing from the hub, and no Python code from a folder."""
WEIGHTS = ("*.safetensors", "*.bin")  # of two formats of the same weights, the first
READ = ("config.json", "preprocessor_config.json", "processor_config.json", "*.index.json", "*token*", "vocab.json",
        "merges.txt")  # fmt: skip
"""Files beside the weights that are read: the network's, the image processor's and the tokenizer's."""


def hub_folder(name: str, setting: str, fix: str) -> Path:
    """The local copy of a network on the hub, downloaded if necessary; without network, the copy that exists.

    name:    OWNER/NAME, which may end in @REVISION, a commit, branch or tag
    setting: full name of the setting that has this value
    fix:     what else the setting can be, for the message
    raises:  NetworkError if the hub has no such network, or cannot be reached
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    repository, _, revision = name.partition("@")
    try:
        for weights in WEIGHTS:
            patterns = [*READ, weights]
            folder = Path(  # without @REVISION it is the user's choice to take the latest; the log names it
                snapshot_download(repository, revision=revision or None, allow_patterns=patterns)  # nosec B615
            )
            if any(folder.glob(weights)):
                break
    except GatedRepoError:
        raise NetworkError(
            f"{setting} is {name}, which the hub gives only to accounts that have accepted its licence; accept it on "
            f"https://huggingface.co/{repository}, and run hf auth login"
        ) from None
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise NetworkError(
            f"{setting} is {name}, which is not a folder, and the hub gave no such model ({reason_of(error)}); {fix}"
        ) from None
    if not revision:
        log.info("%s is revision %s; to keep it, set %s to %s@%s", name, folder.name, setting, name, folder.name)
    return folder


def cached_folder(name: str) -> Path | None:
    """Folder of a network (OWNER/NAME, or OWNER/NAME@REVISION) in the hub's local cache, None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    try:
        config = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except ValueError:  # not of the form OWNER/NAME
        return None
    return Path(config).parent if isinstance(config, str) else None


def files_read(folder: Path) -> list[Path]:
    """The files of a folder that a network, its processor and its tokenizer are read from, sorted by name."""
    weights = next((found for pattern in WEIGHTS if (found := list(folder.glob(pattern)))), [])
    return sorted({*weights, *(path for pattern in READ for path in folder.glob(pattern) if path.is_file())})


def check_sums(folder: Path) -> None:
    """Raise NetworkError unless the files of a folder have the checksums of its SHA256SUMS, if it has one."""
    changed = unlisted_files(folder)
    if changed:
        raise NetworkError(
            f"{folder / changed[0]} differs from its checksum in {folder / SUMS}: it is damaged, or was changed; copy "
            f"the folder again, or train it again; if the change is intended, run rm {shlex.quote(str(folder / SUMS))}"
        )


def config_of(folder: Path) -> Any:
    """The configuration in a folder, as transformers reads it; NetworkError if there is none."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)  # nosec B615: only local files
    except (OSError, ValueError, SafetensorError) as error:
        raise holds_none(folder, error) from None
    _refuse_kernels(folder, config)
    return config


def _refuse_kernels(folder: Path, config: Any) -> None:
    """NetworkError if a configuration names a kernel of the hub (`owner/name`), which transformers would download."""
    from transformers import PreTrainedConfig

    for part in (config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))):
        kernel = getattr(part, "_attn_implementation", None)
        if isinstance(kernel, str) and kernel not in ATTENTION:
            raise NetworkError(
                f"{folder / 'config.json'} asks for the attention {kernel!r}, which may be code from the hub; expected "
                f"one of {', '.join(ATTENTION)}; remove attn_implementation from it"
            )


def load(kind: Any, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """Load a network in float32 from a folder.

    Parameters that the folder lacks, or has with another shape, are drawn from torch's global generator.

    kind:    class of transformers with `from_pretrained`
    returns: the network, and the names of these parameters
    raises:  NetworkError for a folder without such a network, or if a library is missing
    """
    quiet()
    try:
        network, info = kind.from_pretrained(
            folder, dtype="float32", output_loading_info=True, use_kernels=False, **LOCAL, **options
        )
    except ImportError as error:  # a backbone of timm, for instance
        raise _lacks_library(folder, error) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise holds_none(folder, error) from None
    return network, sorted({key for key, *_ in info["mismatched_keys"]} | set(info["missing_keys"]))


def quiet() -> None:
    """Turn off transformers' progress bars, and its tables of tensors, which `load` returns as names."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _lacks_library(folder: Path, error: ImportError) -> NetworkError:
    install = re.search(r"pip install [\w.-]+", str(error))
    fix = f"run {install[0]}" if install else "install that library"
    reason = reason_of(error).partition(". ")[0]
    return NetworkError(f"the network in {folder} needs a library that is not installed ({reason}); {fix}")


def holds_none(folder: Path, error: Exception) -> NetworkError:
    """The error for a folder without a network."""
    return NetworkError(
        f"{folder} holds no segmentation network in transformers format ({reason_of(error)}); give a folder with "
        "config.json and model.safetensors"
    )


def reason_of(error: Exception) -> str:
    """The first line of an error of a library, without its full stop."""
    return first_line(error).removeprefix("Got: ").rstrip(".")
