"""Paillier encryption for vertical federated learning.

Keys (`keys`, `interchange`), vectors of ciphertexts (`vectors`, `cipher`, `pool`), sums by group (`sums`), packing and
compression (`slots`, `wide_slots`), exact inner products under masks (`inner_product`, `pippenger`), products with
whole matrices (`shared_bases`), fixed-point numbers, and the arithmetic underneath (`kernels`).
"""

from vfl.paillier.cipher import add, add_plain, centred, decrypt, encrypt, rerandomise, scale
from vfl.paillier.counts import OperationCounts, operation_counts
from vfl.paillier.fixed_point import from_fixed, to_fixed
from vfl.paillier.inner_product import (
    InnerProductPlan,
    choose_rows_per_ciphertext,
    mask_products,
    open_products,
    pack_rows,
    plan_inner_product,
    transposed_product,
    unmask_products,
)
from vfl.paillier.interchange import (
    private_key_from_json,
    private_key_from_phe,
    private_key_to_json,
    private_key_to_phe,
    public_key_from_json,
    public_key_from_phe,
    public_key_to_json,
    public_key_to_phe,
)
from vfl.paillier.kernel_time import kernel_seconds
from vfl.paillier.kernels import kernel_name
from vfl.paillier.keys import PrivateKey, PublicKey, generate_keypair, public_key_from_wire
from vfl.paillier.pool import ObfuscatorPool
from vfl.paillier.shared_bases import times_columns, times_rows
from vfl.paillier.slots import SlotLayout, compress, pack_residues, pack_slots, plan_slots, unpack_slots
from vfl.paillier.sums import gather, running_sums, subtract, sum_by_group, sum_segments
from vfl.paillier.vectors import CipherVector, from_bytes, hand_on, to_bytes
from vfl.paillier.wide_slots import (
    WideSlots,
    draw_masks,
    low_words,
    open_words,
    pack_masks,
    pack_words,
    plan_wide_slots,
)

__all__ = [
    "CipherVector",
    "InnerProductPlan",
    "ObfuscatorPool",
    "OperationCounts",
    "PrivateKey",
    "PublicKey",
    "SlotLayout",
    "WideSlots",
    "add",
    "add_plain",
    "centred",
    "choose_rows_per_ciphertext",
    "compress",
    "decrypt",
    "draw_masks",
    "encrypt",
    "from_bytes",
    "from_fixed",
    "gather",
    "generate_keypair",
    "hand_on",
    "kernel_name",
    "kernel_seconds",
    "low_words",
    "mask_products",
    "open_products",
    "open_words",
    "operation_counts",
    "pack_masks",
    "pack_residues",
    "pack_rows",
    "pack_slots",
    "pack_words",
    "plan_inner_product",
    "plan_slots",
    "plan_wide_slots",
    "private_key_from_json",
    "private_key_from_phe",
    "private_key_to_json",
    "private_key_to_phe",
    "public_key_from_json",
    "public_key_from_phe",
    "public_key_from_wire",
    "public_key_to_json",
    "public_key_to_phe",
    "rerandomise",
    "running_sums",
    "scale",
    "subtract",
    "sum_by_group",
    "sum_segments",
    "times_columns",
    "times_rows",
    "to_bytes",
    "to_fixed",
    "transposed_product",
    "unmask_products",
    "unpack_slots",
]
