"""Pure functions on tensors: no modules, no configuration.

Every op has a slow ``reference`` that reads like its definition, a vectorised path, and one
public function that checks its arguments and chooses.
"""

from tcformer.ops.attend import attend
from tcformer.ops.dpc_knn import Clusters, dpc_knn
from tcformer.ops.linear import linear
from tcformer.ops.local import Windows, cluster_windows
from tcformer.ops.merge import merge_tokens
from tcformer.ops.regroup import regroup
from tcformer.ops.token_conv import token_conv
from tcformer.ops.token_map import (
    TokenMap,
    map_to_tokens,
    plan_token_map,
    tokens_to_map,
    tokens_to_tokens,
)

Parts, cluster_parts = Windows, cluster_windows  # the names that they had

__all__ = [
    "Clusters",
    "TokenMap",
    "Windows",
    "attend",
    "cluster_windows",
    "dpc_knn",
    "linear",
    "map_to_tokens",
    "merge_tokens",
    "plan_token_map",
    "regroup",
    "token_conv",
    "tokens_to_map",
    "tokens_to_tokens",
]
