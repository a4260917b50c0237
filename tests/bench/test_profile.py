"""Where the time goes: shares of kernels that overlap, and the time in which none runs."""

import pytest

from verlock.bench import profile


def test_shares_add_up_to_the_wall_and_an_overlap_counts_once():
    kernels = [("flash_fwd_splitkv", 0.0, 2.0), ("sm90_xmma_gemm_bf16", 1.0, 4.0), ("cunn_SoftMaxForward", 6.0, 7.0)]
    found = profile.shares(kernels, 10.0)
    assert found == {"attention": 2.0, "matrices": 2.0, "sampling": 1.0, "waiting": 5.0}
    assert profile.shares([], 3.0) == {"waiting": 3.0}


def test_a_kernel_within_another_takes_nothing():
    assert profile.shares([("gemm", 0.0, 5.0), ("topk", 1.0, 2.0)], 5.0) == {"matrices": 5.0, "waiting": 0.0}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", "attention"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrices"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrices"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", "sampling"),
        ("void at::native::distribution_elementwise_grid_stride_kernel<float, 4>", "sampling"),
        ("Memcpy DtoH (Device -> Pinned)", "copies"),
        ("void vllm::rms_norm_kernel<c10::BFloat16>", "other kernels"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "other kernels"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel, kind):
    assert profile.kind(kernel) == kind


def test_the_kernels_that_took_longest_are_named():
    found = profile.longest([("a", 0.0, 1.0), ("b", 1.0, 4.0), ("a", 4.0, 5.5)])
    assert found == [("b", 3.0, 1), ("a", 2.5, 2)]
