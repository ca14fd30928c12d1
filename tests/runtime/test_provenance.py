"""What a record tells of the machine."""

import torch

from tcformer.runtime import provenance


def test_a_record_tells_the_processor_and_what_products_reach():
    found = provenance.machine(torch.device("cpu"))
    assert {"processor", "vendor", "family", "model", "stepping", "microarchitecture",
            "vector_bits", "vector_bits_from"} <= found.keys()  # fmt: skip
    reached = found["products_gflops"]
    assert reached.keys() <= {"mkl", "blas", "onednn"}
    assert min(reached.values()) > 0


def test_measuring_leaves_the_random_numbers_of_a_run_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    provenance._products.cache_clear()
    provenance.products(64, 0.001)
    assert torch.equal(torch.get_rng_state(), before)
