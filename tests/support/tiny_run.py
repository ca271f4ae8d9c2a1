"""Write a tiny run folder in a second: a small FocalNet with random weights, and images of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.evaluation.split_file import LabelledImages, write_split
from runtime.images.preprocess import Image
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet, overlay_tensors
from train.model.recipe import TrainConfig
from train.model.weights import Tensors, model_weights, weight_arrays, write_tensors
from train.run import TEST_FILE, WEIGHTS_FILE, Run, write_run

CLASSES = ("ant", "bee", "cat")
CONFIG = FocalNetConfig(
    input_size=16,
    classes=len(CLASSES),
    patch_size=2,
    dims=(8, 16),
    depths=(1, 1),
    focal_levels=(2, 1),
    focal_windows=(3, 3),
    folded=True,  # as export reads weights
)
RUN = Run(
    preset="tiny",
    model=CONFIG,
    recipe=TrainConfig(batch_size=16, resize_margin=2),
    dataset="folder",
    labels=CLASSES,
)
TEST_IMAGES = 200
IMAGES_PER_CLASS = 20


def soft_images(count: int, seed: int, size: int = CONFIG.input_size) -> Image:
    """Draw colour blobs with noise: uint8 `[count, size, size, 3]`."""
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 256, (count, 3, 3, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(blob, (size, size), interpolation=cv2.INTER_CUBIC) for blob in blobs])
    return np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)


def draw_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Draw weights that keep activations near 1, with biases and norms that have an effect."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = rng.normal(0.0, 1.0, shape)
        if name.endswith("/kernel"):
            depthwise = ".focal" in name
            value /= np.sqrt(np.prod(shape[:2] if depthwise else shape[:3]))
        elif name.endswith("/moving_variance"):
            value = 0.5 + np.abs(value)
        else:
            value = 0.2 * value + name.endswith("/gamma")
        tensors[name] = value.astype(np.float32)
    return tensors


def write_tiny_run(folder: Path, run: Run = RUN) -> None:
    """Write config.json, float.safetensors and test.npz, as training does.

    The labels of the test images are the network's predictions, so its accuracy is 100%. The images are of the size
    from which preprocessing takes the centre without resizing.
    """
    import keras

    size = run.model.input_size
    model = build_focalnet(run.model, keras)
    weights = model_weights(model)
    for name, value in draw_weights({name: tuple(v.shape) for name, v in weights.items()}, seed=1).items():
        weights[name].assign(value)
    candidates = soft_images(2 * TEST_IMAGES, seed=2, size=round(size / run.model.crop_fraction))
    edge = (candidates.shape[1] - size) // 2
    seen = candidates[:, edge : edge + size, edge : edge + size].astype(np.float32)
    spread_logits(weights, np.asarray(model.predict_on_batch(seen)))
    write_tensors(folder / WEIGHTS_FILE, weight_arrays(model))
    write_run(folder, run)

    logits = np.asarray(model.predict_on_batch(seen))
    chosen = clearest(logits, TEST_IMAGES)
    write_split(
        folder / TEST_FILE,
        LabelledImages(
            images=candidates[chosen],
            labels=logits[chosen].argmax(axis=-1).astype(np.int64),
            ids=tuple(f"blob/{index}" for index in chosen),
            class_names=CLASSES,
            dataset="blobs",
            split="test",
        ),
    )


def spread_logits(weights: dict[str, Any], logits: NDArray[np.float32]) -> None:
    """Scale the head so that every class is predicted."""
    kernel, bias = (np.asarray(weights[f"logits/{kind}"]) for kind in ("kernel", "bias"))
    scale = 3.0 / logits.std(axis=0)
    weights["logits/kernel"].assign(kernel * scale)
    weights["logits/bias"].assign((bias - logits.mean(axis=0)) * scale)


def clearest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the images with the largest margin between the first class and the second."""
    ordered = np.sort(logits, axis=-1)
    return np.sort(np.argsort(ordered[:, -2] - ordered[:, -1])[:count])


def write_image_folder(folder: Path) -> None:
    """Write PNGs, a sub-folder a class, for the dataset `folder`."""
    images = soft_images(IMAGES_PER_CLASS * len(CLASSES), seed=3, size=20)
    for index, image in enumerate(images):
        path = folder / CLASSES[index % len(CLASSES)] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def keras_outputs(model: Any, prefix: str, images: Image) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of a tiny `tf_keras` network by name, with the modulator's norm by NumPy."""
    import tf_keras

    gates, modulator = overlay_tensors(model, CONFIG, prefix)
    views = tf_keras.Model(model.input, {"logits": model.output, "gates": gates, "modulator": modulator})
    outputs = views.predict_on_batch(images.astype(np.float32))
    norms = np.linalg.norm(outputs["modulator"], axis=-1)
    return {"logits": outputs["logits"], "gates": np.concatenate(outputs["gates"], axis=-1), "modulator": norms}


def run_artifact(content: bytes, images: Image, interpreter_class: Any = None) -> dict[str, NDArray[np.float32]]:
    """Run a TFLite model on images `[N, S, S, 3]`, and return its outputs `[N, ...]` by tensor name."""
    if interpreter_class is None:
        from ai_edge_litert.interpreter import Interpreter as interpreter_class  # noqa: N813
    interpreter = interpreter_class(model_content=content)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    outputs: dict[str, list[NDArray[np.float32]]] = {d["name"]: [] for d in interpreter.get_output_details()}
    for image in images:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        for detail in interpreter.get_output_details():
            outputs[detail["name"]].append(interpreter.get_tensor(detail["index"])[0])
    return {name: np.stack(values) for name, values in outputs.items()}
