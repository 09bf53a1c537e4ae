"""Pictures of what a model does, as PNG files. Letters: F mel bins, T frames, S steps of the encoder."""

from pathlib import Path

import numpy as np


def save_prediction_picture(
    path: str | Path,
    *,
    clean: np.ndarray,
    noisy: np.ndarray,
    is_masked: np.ndarray,
    true_codes: np.ndarray,
    guessed_codes: np.ndarray,
    is_scored: np.ndarray,
    frame_seconds: float = 0.01,
    frames_per_step: int = 8,
    title: str = "",
) -> None:
    """One utterance over time: clean and noisy spectrogram, what was hidden, and the guesses beside the truth.

    clean, noisy: (F, T) log-mel features; is_masked: (T,) bool, hidden frames.
    true_codes, guessed_codes: (S,) code ids, from 0; is_scored: (S,) bool, the steps that are guessed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1, 1.3))
    figure.suptitle(title)
    hidden = _runs(is_masked)

    top.set_title("clean speech: its codes are to be guessed", loc="left", fontsize=10)
    _draw_mel(top, clean, [], frame_seconds)
    middle.set_title("what the model gets: noisy speech, hidden in the shaded stretches", loc="left", fontsize=10)
    _draw_mel(middle, noisy, hidden, frame_seconds)

    seconds = (np.arange(len(true_codes)) + 0.5) * frames_per_step * frame_seconds
    right = is_scored & (guessed_codes == true_codes)
    wrong = is_scored & ~right
    for start, end in hidden:
        bottom.axvspan(start * frame_seconds, end * frame_seconds, color="0.92")
    bottom.plot(seconds, true_codes, "s", markersize=7, color="0.6", markerfacecolor="none", label="true code")
    bottom.plot(seconds[right], guessed_codes[right], "o", markersize=4, color="tab:green", label="guessed right")
    bottom.plot(seconds[wrong], guessed_codes[wrong], "x", markersize=5, color="tab:red", label="guessed wrong")
    bottom.set_title(f"{right.sum()} of {is_scored.sum()} hidden codes guessed right", loc="left", fontsize=10)
    bottom.set(xlabel="seconds", ylabel="code", xlim=(0, clean.shape[1] * frame_seconds))
    bottom.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=8)

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100)


def _draw_mel(axes, mel: np.ndarray, hidden: list[tuple[int, int]], frame_seconds: float) -> None:
    """mel: (F, T); hidden: stretches of frames that are covered."""
    num_bins, num_frames = mel.shape
    extent = (0, num_frames * frame_seconds, 0, num_bins)
    low, high = np.percentile(mel, [2, 99])
    axes.imshow(mel, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
    for start, end in hidden:
        axes.axvspan(start * frame_seconds, end * frame_seconds, color="0.75")
    axes.set_ylabel("mel bin")


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, one past the last) of each stretch of True: (T,) bool."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist()))
