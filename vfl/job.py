"""A job and a scenario as frozen typed objects: every key with its type, default, range and meaning, written once.

`vfl.job_file` reads them from TOML, `vfl.reference` writes the table in the docs from them. A key stands here only
from the version on in which it has an effect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from parties.policy import KeyHolder, Model
from parties.spec import PartyName, PartyRole, PartySpec, holder_of

Task = Literal["binary", "multiclass", "regression", "count"]
KeyHolderSetting = Literal["auto", "active", "coordinator"]

TASKS: dict[Model, Task] = {
    "logistic": "binary",
    "softmax": "multiclass",
    "linear": "regression",
    "poisson": "count",
}
"""What a generalised linear model implies; the other models fit several tasks."""
EXPECTED_ROUNDS: dict[Model, int] = {"logistic": 12, "softmax": 40, "linear": 12, "poisson": 12}
COORDINATOR_MODELS: tuple[Model, ...] = ("logistic", "linear")

ONE_SIDED_MODELS: tuple[Model, ...] = ("boosting", "logistic", "linear")

VALIDATED_MODELS: tuple[Model, ...] = ("boosting", "splitnn")
"""Models that can watch the loss of a validation part."""

KEY_BITS = (2048, 3072, 4096)
TEST_KEY_BITS = (512, 1024)
MODELS: tuple[Model, ...] = get_args(Model)


class Alignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the parties find their common rows."""

    protocol: Annotated[
        Literal["auto", "ecdh", "kkrt", "mpsi", "server-aided"],
        Meta(
            description="Private set intersection; auto: kkrt for two parties where one has more than 200,000 ids, "
            "else ecdh."
        ),
    ] = "auto"
    min_intersection: Annotated[
        int, Meta(ge=1, le=2**31, description="Fewer common rows end the run before anybody learns which.")
    ] = 100
    duplicates: Annotated[
        Literal["refuse", "first", "drop"], Meta(description="Rows whose id occurs more than once.")
    ] = "refuse"
    missing: Annotated[Literal["refuse", "drop"], Meta(description="Rows without an id.")] = "refuse"
    casefold: Annotated[bool, Meta(description="Ids that differ in case only are the same.")] = False
    digits_only: Annotated[bool, Meta(description="Everything but digits in an id is ignored.")] = False
    pad_to: Annotated[
        Annotated[int, Meta(ge=1, le=2**31)] | None,
        Meta(
            description="Every party's list is padded with dummies to so many ids, so that nobody learns how many ids "
            "another one has; none: no padding."
        ),
    ] = None
    one_sided: Annotated[
        bool,
        Meta(
            description="With one passive party: the active party alone learns which ids are common, and the passive "
            "party trains on all its rows."
        ),
    ] = False
    bucket_ids: Annotated[
        int,
        Meta(
            ge=1_000,
            le=2**28,
            description="Lists of more than twice as many ids are aligned in parts of about so many, which bounds "
            "memory.",
        ),
    ] = 2_000_000
    min_prediction_rows: Annotated[
        int,
        Meta(
            ge=1,
            le=2**31,
            description="Where guards are enforced: fewer common rows end a later prediction before anybody learns "
            "which.",
        ),
    ] = 100


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are held out."""

    test_fraction: Annotated[
        float, Meta(ge=0, lt=1, description="Share of the aligned rows held out, the last ones; 0: no metrics.")
    ] = 0.3
    validation_fraction: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Boosting and splitnn: share of the aligned rows held out to watch the loss, before the test "
            "rows.",
        ),
    ] = 0.0


Rule = Literal["fedavg", "weighted", "simple"]
"""How the silos' weights are averaged: by rows, by declared weights, or each silo the same."""


class Averaging(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the silos of one holder train a model together where there is no passive party (horizontal learning).

    Every other federation keeps the defaults.
    """

    aggregation: Annotated[
        Literal["fedsgd", "fedavg", "weighted", "simple"],
        Meta(
            description="Silos without a passive party: fedsgd: their gradients are added, the same model as on pooled "
            "rows; fedavg: local_epochs on each silo's own rows, then the mean of their weights by rows; weighted: by "
            "silo_weight; simple: each silo the same."
        ),
    ] = "fedsgd"
    aggregation_by_layer: Annotated[
        dict[str, Rule],
        Meta(
            description="Other rules for some layers, by the beginning of their names (GLM: coefficients, intercept; "
            "splitnn: own, top.0, ...); with fedavg, weighted and simple."
        ),
    ] = msgspec.field(default_factory=dict)
    rounds: Annotated[
        int,
        Meta(ge=1, le=10**6, description="Most rounds of averaging (fedavg, weighted, simple), or with dp."),
    ] = 50
    local_epochs: Annotated[
        int, Meta(ge=1, le=1000, description="Passes over its own rows that a silo makes in each round of averaging.")
    ] = 1
    client_fraction: Annotated[
        float, Meta(gt=0, le=1, description="Share of the silos that take part in a round, drawn anew for each.")
    ] = 1.0
    server_optimizer: Annotated[
        Literal["average", "momentum", "adam"],
        Meta(
            description="What the coordinator does with the mean update (FedOpt): takes it as it is, or as the "
            "gradient of a momentum or Adam step."
        ),
    ] = "average"
    server_learning_rate: Annotated[
        Annotated[float, Meta(gt=0, le=100)] | None,
        Meta(description="Of server_optimizer; none: 1, with adam 0.01."),
    ] = None
    proximal: Annotated[
        float,
        Meta(ge=0, le=1e6, description="FedProx: weight of half the squared distance to a round's first weights."),
    ] = 0.0
    min_silos: Annotated[
        Annotated[int, Meta(ge=2, le=4096)] | None,
        Meta(
            description="A round goes on without silos that are lost, late or send a malformed update as long as so "
            "many are left; none: all must take part."
        ),
    ] = None
    round_timeout: Annotated[
        float, Meta(gt=0, le=86_400, description="With min_silos: seconds that a round waits for a silo.")
    ] = 60.0


class Training(Averaging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a generalised linear model is fitted."""

    l2: Annotated[
        float, Meta(ge=0, description="Weight of ||w||^2 / 2 beside the mean loss; the intercept is not penalised.")
    ] = 0.001
    tol: Annotated[
        float, Meta(gt=0, lt=1, description="Stop when half the expected decrease is below tol max(1, loss).")
    ] = 1e-8
    max_iter: Annotated[int, Meta(ge=1, le=10**6, description="Most rounds.")] = 100
    fit_intercept: Annotated[bool, Meta(description="The active party fits an intercept.")] = True
    newton_steps: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Key at the coordinator: times that the quadratic model moves to the scores reached, "
            "which the active party learns each time.",
        ),
    ] = 0
    curvature: Annotated[
        Literal["mean", "row"],
        Meta(
            description="Key at the coordinator: curvature of the quadratic model, one mean or one per row; "
            "with sample weights always one per row."
        ),
    ] = "mean"
    learning_rate: Annotated[
        float,
        Meta(gt=0, le=100, description="Silos: of local steps, and of noisy or server_optimizer steps of fedsgd."),
    ] = 0.1
    batch_size: Annotated[int, Meta(ge=1, le=2**20, description="Silos: most rows of a local step.")] = 32


class Boosting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gradient-boosted trees are grown: XGBoost's names and defaults where XGBoost has them."""

    n_estimators: Annotated[int, Meta(ge=1, le=10**5, description="Most rounds.")] = 100
    max_depth: Annotated[int, Meta(ge=1, le=16, description="Largest depth of a tree.")] = 6
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="Share of each tree's values that is added.")] = 0.3
    max_bin: Annotated[int, Meta(ge=2, le=65_535, description="Most quantile bins of a numeric column.")] = 256
    max_cat_to_onehot: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Categorical columns with more categories than this are split by categories sorted by "
            "gradient, others by one category against the rest; none: always one against the rest."
        ),
    ] = None
    reg_lambda: Annotated[float, Meta(ge=0, description="L2 penalty on the values of leaves.")] = 1.0
    reg_alpha: Annotated[float, Meta(ge=0, description="L1 penalty on the values of leaves.")] = 0.0
    gamma: Annotated[float, Meta(ge=0, description="Least gain of a split.")] = 0.0
    min_child_weight: Annotated[
        float, Meta(ge=0, description="Least sum of h in a child; over all classes in trees of several outputs.")
    ] = 1.0
    max_delta_step: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Largest value of a leaf before learning_rate; 0: no limit; none: 0, for counts 0.7."),
    ] = None
    subsample: Annotated[float, Meta(gt=0, le=1, description="Share of the training rows that a round draws.")] = 1.0
    colsample_bytree: Annotated[
        float, Meta(gt=0, le=1, description="Share of all parties' columns that a tree draws.")
    ] = 1.0
    top_rate: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="GOSS: share of rows, those of largest gradient, that a round keeps; with other_rate."),
    ] = None
    other_rate: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="GOSS: share of rows drawn from the others, which then count the more; with top_rate."),
    ] = None
    scale_pos_weight: Annotated[float, Meta(gt=0, description="Weight of positive rows; binary tasks.")] = 1.0
    base_score: Annotated[
        float | None,
        Meta(description="First prediction of all rows, in the label's unit (a probability); none: from the labels."),
    ] = None
    early_stopping_rounds: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Stop after so many rounds without a better validation loss, and keep the best round."),
    ] = None
    multi_output: Annotated[
        bool, Meta(description="Multiclass: one tree of all classes per round; false: one tree per class.")
    ] = True
    first_tree_active_only: Annotated[
        bool, Meta(description="The first round uses the active party's columns alone.")
    ] = False
    min_node_rows: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Passive parties split nodes of at least so many rows; "
            "none: 200 where guards are enforced, else 0."
        ),
    ] = None
    min_bin_gap: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Rows at least between two candidate splits of a passive column; "
            "none: 10 where guards are enforced, else 0."
        ),
    ] = None


class SplitNN(Averaging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a split neural network is trained: a first layer over all parties' columns, and the active party's own above.

    Where there is no passive party nothing is split, and the silos of the one holder train the whole network.

    The network is one layer of ``units`` outputs that all parties hold together (each the weights of its columns), the
    activation, one layer for each of ``hidden``, and one output per score.
    """

    mode: Annotated[
        Literal["source-layer", "split"],
        Meta(
            description="source-layer: the parties' first layer is linear and computed under encryption; split: any "
            "bottom network per party, whose outputs and their gradients are exchanged in the clear (every policy "
            "must allow embedding_gradients)."
        ),
    ] = "source-layer"
    units: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Outputs of the first layer, over which the parties' parts are added up; time, bytes and what "
            "the active party learns grow with them.",
        ),
    ] = 16
    hidden: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=65_536)], ...],
        Meta(max_length=64, description="Widths of the active party's layers between the first one and the output."),
    ] = (64, 32)
    activation: Annotated[
        Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"],
        Meta(description="Behind the first and every hidden layer."),
    ] = "relu"
    dropout: Annotated[
        float, Meta(ge=0, lt=1, description="Share of the activations left out in each step of the training.")
    ] = 0.0
    batch_size: Annotated[
        int, Meta(ge=1, le=2**20, description="Most rows of one step; an epoch's steps have as many but for one row.")
    ] = 256
    epochs: Annotated[int, Meta(ge=1, le=10**5, description="Most passes over the training rows.")] = 10
    optimizer: Annotated[
        Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"],
        Meta(description="Of the active party's layers; in mode split of every party's own. PyTorch's, by name."),
    ] = "adam"
    learning_rate: Annotated[float, Meta(gt=0, le=100, description="Of that optimizer.")] = 0.01
    weight_decay: Annotated[float, Meta(ge=0, le=100, description="Of that optimizer.")] = 0.0
    momentum: Annotated[float, Meta(ge=0, lt=1, description="Of optimizer sgd.")] = 0.0
    source_learning_rate: Annotated[
        Annotated[float, Meta(gt=0, le=100)] | None,
        Meta(
            description="Mode source-layer: of the passive parties' weights, which take plain steps of stochastic "
            "gradient descent; none: learning_rate with optimizer sgd, else 0.3."
        ),
    ] = None
    early_stopping_rounds: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Stop after so many epochs without a better validation loss, and keep the best epoch."),
    ] = None
    bottom_hidden: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=65_536)], ...],
        Meta(max_length=64, description="Mode split: widths of the layers of each party's own bottom network."),
    ] = ()
    local_steps: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Mode split: steps that every party takes on one exchange of a batch (FedBCD)."
        ),
    ] = 1
    gradient_clip: Annotated[
        Annotated[float, Meta(ge=1e-9)] | None,
        Meta(
            description="Mode split: largest norm of the gradient of a row's own loss (times its weight) that leaves "
            "the active party; none: no limit."
        ),
    ] = None
    gradient_noise: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="Mode split: standard deviation of the noise on each row's gradient, in units of "
            "gradient_clip, which it needs; the report states the epsilon.",
        ),
    ] = 0.0
    label_inference: Annotated[
        bool,
        Meta(
            description="Mode split, binary tasks: try to infer labels from the gradients sent, as a passive party "
            "could; the report states how well it works."
        ),
    ] = False

    @property
    def source_step(self) -> float:
        """Learning rate of the passive parties' weights in mode source-layer."""
        if self.source_learning_rate is not None:
            return self.source_learning_rate
        return self.learning_rate if self.optimizer == "sgd" else 0.3


class Privacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys, and how the guards act."""

    key_bits: Annotated[
        int,
        Meta(
            ge=512,
            le=4096,
            description="Paillier modulus, bits: 2048, 3072 or 4096; with insecure_test_mode also 512 or 1024.",
        ),
    ] = 2048
    key_holder: Annotated[
        KeyHolderSetting, Meta(description="Who holds the private key; coordinator: logistic and linear only.")
    ] = "auto"
    exponent_bits: Annotated[
        Annotated[int, Meta(ge=448)] | None,
        Meta(description="Length of the obfuscators' exponents, bits, at most key_bits; none: key_bits / 2."),
    ] = None
    enforce: Annotated[bool, Meta(description="Guards refuse as between companies instead of warning.")] = False
    label_dp_epsilon: Annotated[
        Annotated[float, Meta(ge=1e-6, le=50)] | None,
        Meta(
            description="Randomised response on the training labels with this epsilon (classes only), debiased; "
            "none: the labels as they are."
        ),
    ] = None
    dp: Annotated[
        Literal["none", "central", "local"],
        Meta(
            description="Silos without a passive party: clipped gradients of rows with Gaussian noise; central: the "
            "silos' shares of it add up in what the coordinator learns; local: each silo's own update has all of it."
        ),
    ] = "none"
    dp_clip: Annotated[
        float, Meta(gt=0, le=1e6, description="With dp: largest norm of the gradient of a row's loss.")
    ] = 1.0
    dp_epsilon: Annotated[
        Annotated[float, Meta(ge=0.01, le=1000)] | None,
        Meta(description="With dp: epsilon of the whole training, for which the noise is chosen; or dp_noise."),
    ] = None
    dp_noise: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        Meta(description="With dp: deviation of the noise in units of dp_clip; the report states the epsilon."),
    ] = None
    dp_delta: Annotated[float, Meta(gt=0, lt=1, description="With dp: delta of the guarantee.")] = 1e-5
    small_data: Annotated[
        bool, Meta(description="Ask for batches below max(16 columns, 512) rows; every policy must allow it too.")
    ] = False
    insecure_test_mode: Annotated[bool, Meta(description="Allow keys that can be broken, for tests.")] = False


AskedTask = Annotated[
    Task | None,
    Meta(
        description="What the label is; follows from a GLM, and may be left out there (a conflicting one is "
        "refused); models boosting and splitnn need it."
    ),
]


class Lines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a scenario file, a job file and a job have in common."""

    name: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="Name of the job; names its run directory."),
    ]
    model: Annotated[Model, Meta(description="What is trained.")]
    seed: Annotated[
        int, Meta(ge=0, le=2**63 - 1, description="Seed of the row order and so of the split; not of keys and masks.")
    ] = 0
    alignment: Annotated[Alignment, Meta(description="The section [alignment].")] = Alignment()
    split: Annotated[Split, Meta(description="The section [split].")] = Split()
    training: Annotated[
        Training | Boosting | SplitNN, Meta(description="The section [training], as the model has it.")
    ] = Training()
    privacy: Annotated[Privacy, Meta(description="The section [privacy].")] = Privacy()


class ScenarioFile(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario file line by line; ``vfl.tables.read`` reads it, told which form of [training] the model has."""

    task: AskedTask = None
    party: Annotated[tuple[PartySpec, ...], Meta(description="One [[party]] each; exactly one is active.")] = ()


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everybody knows of a party."""

    name: PartyName
    role: Annotated[PartyRole, Meta(description="Exactly one party is active, the holder of the labels.")]

    @property
    def holder(self) -> str:
        """The party that a silo belongs to; of any other party its own name."""
        return holder_of(self.name)


class Job(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parties agree on before they start.

    Attributes
    ----------
    training, boosting, splitnn : Training, Boosting, SplitNN
        The section [training] of a GLM, of model boosting and of splitnn; those that are not the model's keep their
        defaults.
    parties : tuple of Member
        In the order of the file.
    """

    training: Training = Training()
    boosting: Boosting = Boosting()
    splitnn: SplitNN = SplitNN()
    task: Task
    parties: tuple[Member, ...]

    @property
    def active(self) -> str:
        """Name of the active party; of several silos that hold the labels, of the first one."""
        return next(party.name for party in self.parties if party.role == "active")

    @property
    def passive(self) -> tuple[str, ...]:
        """Names of the passive parties in the order of the file, each silo by itself."""
        return tuple(party.name for party in self.parties if party.role == "passive")

    @property
    def labelled(self) -> tuple[str, ...]:
        """Who holds labels: the active party, or all silos of the label holder, the active one first."""
        return tuple(party.name for party in self.parties if party.role == "active")

    @property
    def holders(self) -> dict[str, tuple[str, ...]]:
        """Every holder of columns with its silos, in the order of the file; without silos it is its own only member."""
        found: dict[str, tuple[str, ...]] = {}
        for party in self.parties:
            found[party.holder] = (*found.get(party.holder, ()), party.name)
        return found

    @property
    def passive_holders(self) -> dict[str, tuple[str, ...]]:
        """The holders of features only, with their silos."""
        return {name: members for name, members in self.holders.items() if members[0] in self.passive}

    @property
    def has_silos(self) -> bool:
        """Whether any holder is made of silos, be it of one."""
        return any(party.name != party.holder for party in self.parties)

    @property
    def horizontal(self) -> bool:
        """Whether all are silos of the label holder: every one has all columns, and nothing is aligned."""
        return self.has_silos and not self.passive

    @property
    def averaging(self) -> Averaging:
        """How silos train together where there is no passive party."""
        return self.splitnn if self.model == "splitnn" else self.training

    @property
    def max_rounds(self) -> int:
        """The most rounds that training can take: iterations of a GLM, trees of boosting, epochs of splitnn."""
        if self.horizontal and (self.averaging.aggregation != "fedsgd" or self.privacy.dp != "none"):
            return self.averaging.rounds
        if self.model == "splitnn":
            return self.splitnn.epochs
        return self.boosting.n_estimators if self.model == "boosting" else self.training.max_iter

    @property
    def in_the_clear(self) -> bool:
        """Whether outputs and gradients of single rows are exchanged in the clear: model splitnn in mode split."""
        return self.model == "splitnn" and self.splitnn.mode == "split"

    @property
    def encrypted(self) -> bool:
        """Whether training computes under encryption: not in mode split, nor where there is no passive party."""
        return not self.horizontal and not self.in_the_clear


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A job, every party's own part with absolute paths, and the directory that the file lies in."""

    job: Job
    parties: tuple[PartySpec, ...]
    directory: Path


def choose_key_holder(
    model: Model,
    setting: KeyHolderSetting,
    passive_columns: int,
    passive_parties: int,
    classes: int,
    max_iter: int,
    *,
    encrypted: bool = True,
    silos: bool = False,
) -> tuple[KeyHolder, str]:
    """Who holds the private key, and why, in words for the report.

    ``auto`` takes the active party (the exact link; it learns summed scores) where two or more passive parties hide
    in the sum and the rounds expected cannot spend its score budget, or where the model has no other protocol.

    Parameters
    ----------
    model : Model
    setting : {"auto", "active", "coordinator"}
    passive_columns : int
        Columns of all passive parties after encoding.
    passive_parties : int
    classes : int
        Scores per row: classes for softmax, else 1.
    max_iter : int
        Most rounds of the job.
    encrypted : bool
        As `Job.encrypted` has it.
    silos : bool
        A party is made of silos: only the active party can hold the key then.
    """
    if not encrypted:
        return "active", "no key is made: mode 'split' exchanges outputs and gradients in the clear"
    if setting != "auto":
        return setting, "the job says so"
    if silos:
        return "active", "the protocol for parties made of silos has the key at the active party"
    if model not in COORDINATOR_MODELS:
        return "active", f"model '{model}' has no protocol with the key at the coordinator"
    if passive_parties < 2:
        return "coordinator", "with one passive party the active party would learn that party's own scores"
    rounds = min(EXPECTED_ROUNDS[model], max_iter)
    spent = rounds * classes / max(passive_columns, 1)
    figures = f"{rounds} expected rounds of summed scores against {passive_columns} passive columns"
    if spent < 1:
        return "active", f"{figures} stay within the score budget, {spent:.2f} of 1"
    return "coordinator", f"{figures} would spend the score budget, {spent:.2f} of 1"


def job_fields(job: Job) -> dict[str, str]:
    """Everything that all parties must agree on, flat and as text; the handshake names the field that differs."""
    lines: dict[str, str] = {}
    sections = msgspec.to_builtins(job)
    for model in ("boosting", "splitnn"):
        lines_of_model = sections.pop(model)
        if job.model == model:
            sections["training"] = lines_of_model
    for key, value in sections.items():
        if key == "parties":
            lines |= {f"party.{i}": f"{party['name']} {party['role']}" for i, party in enumerate(value, 1)}
        elif isinstance(value, dict):
            lines |= {f"{key}.{inner}": _text(line) for inner, line in value.items()}
        else:
            lines[key] = _text(value)
    return lines


def _text(value: object) -> str:
    """Text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
