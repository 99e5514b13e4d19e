import threading

import vfl.paillier as paillier
from vfl.paillier import OperationCounts, PrivateKey, operation_counts
from vfl.paillier.counts import record


def test_every_operation_is_counted_once(key: PrivateKey) -> None:
    before = operation_counts()
    v = paillier.encrypt(key, [1, 2, 3])
    paillier.rerandomise(v, towards_owner=False)
    paillier.decrypt(key, v[:2])
    paillier.add(v, v)
    assert operation_counts() - before == OperationCounts(encryptions=3, decryptions=2, rerandomisations=3)


def test_refused_work_is_not_counted(key: PrivateKey) -> None:
    before = operation_counts()
    try:
        paillier.encrypt(key, [key.public.n])
    except paillier.cipher.CryptoError:
        pass
    assert operation_counts() == before


def test_counts_from_many_threads_add_up() -> None:
    before = operation_counts()
    threads = [threading.Thread(target=lambda: [record(encryptions=1) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (operation_counts() - before).encryptions == 4000
