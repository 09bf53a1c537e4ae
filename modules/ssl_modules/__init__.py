"""What turns an encoder into a self-supervised model: targets, masks, predictions, mixtures."""

from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation, SpeakerNoiseAugmentation
from modules.ssl_modules.masking import ConvFeatureMaksingWrapper, ConvFeatureMaskingWrapper, RandomBlockMasking
from modules.ssl_modules.multi_softmax_decoder import MultiSoftmaxDecoder
from modules.ssl_modules.quantizers import RandomProjectionVectorQuantizer

__all__ = [
    "ConvFeatureMaksingWrapper",
    "ConvFeatureMaskingWrapper",
    "MultiSoftmaxDecoder",
    "MultiSpeakerNoiseAugmentation",
    "RandomBlockMasking",
    "RandomProjectionVectorQuantizer",
    "SpeakerNoiseAugmentation",
]
