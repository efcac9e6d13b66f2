"""Methods of pytorch-grad-cam, by name, on any detector with a network: one file a kind.

Three that grad-cam has too are pages of their own: ``layer_cam``, ``ablation_cam`` and ``eigen_cam``. Left out:
FullGrad, which reads the biases of a whole classifier; RandomCAM, for ``detxai evaluate`` has its ``random``;
SegEigenCAM, which is ``eigen_cam`` with another rule for the sign; and what is made of other methods: RefineCAM, SESS
and the smoothing options.
"""

from detxai.methods.from_grad_cam.gradient_cams import (
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    ShapleyCAM,
    XGradCAM,
)
from detxai.methods.from_grad_cam.image_cams import FEM, KPCACAM
from detxai.methods.from_grad_cam.score_cam import ScoreCAM

FROM_GRAD_CAM = (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    XGradCAM,
    GradCAMElementWise,
    EigenGradCAM,
    FinerCAM,
    ShapleyCAM,
    ScoreCAM,
    KPCACAM,
    FEM,
)

__all__ = ["FROM_GRAD_CAM", *(method.__name__ for method in FROM_GRAD_CAM)]
