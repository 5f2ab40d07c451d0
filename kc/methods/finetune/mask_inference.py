"""From queries to maps: `kc.openvocab.mask_inference`, under the name by which the methods know it."""

from kc.openvocab.mask_inference import OVERLAP as OVERLAP
from kc.openvocab.mask_inference import SCORE as SCORE
from kc.openvocab.mask_inference import TOP as TOP
from kc.openvocab.mask_inference import Instances as Instances
from kc.openvocab.mask_inference import at_size as at_size
from kc.openvocab.mask_inference import instances as instances
from kc.openvocab.mask_inference import panoptic_map as panoptic_map
from kc.openvocab.mask_inference import semantic_scores as semantic_scores
