from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OnInsufficient(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_INSUFFICIENT_UNSPECIFIED: _ClassVar[OnInsufficient]
    ON_INSUFFICIENT_BEST: _ClassVar[OnInsufficient]
    ON_INSUFFICIENT_REFUSE: _ClassVar[OnInsufficient]

class Evidence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_UNSPECIFIED: _ClassVar[Evidence]
    EVIDENCE_SUFFICIENT: _ClassVar[Evidence]
    EVIDENCE_INSUFFICIENT: _ClassVar[Evidence]
    EVIDENCE_UNFAMILIAR: _ClassVar[Evidence]
    EVIDENCE_TOO_SLOW: _ClassVar[Evidence]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_COMPLETE: _ClassVar[StopReason]
    STOP_REASON_TOKEN_CAP: _ClassVar[StopReason]
    STOP_REASON_DEADLINE: _ClassVar[StopReason]
    STOP_REASON_LONGEST_SEARCH: _ClassVar[StopReason]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_PROMPT_EMPTY: _ClassVar[ErrorReason]
    ERROR_REASON_PROMPT_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_BUDGET_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_CAP_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_ARM_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FILE: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_BUNDLE: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_WEIGHTS: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_DEPENDENCY: _ClassVar[ErrorReason]
    ERROR_REASON_ADDRESS_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_ENGINE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_CAP_REACHED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_OBJECTIVE_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOME_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOMES_OFF: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOMES_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_MESSAGE_MALFORMED: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_NOT_READ: _ClassVar[ErrorReason]
    ERROR_REASON_STOPPING: _ClassVar[ErrorReason]
    ERROR_REASON_PROMPT_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_SEARCH_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_GAVE_WAY: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_INPUTS_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_CODE_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_SEARCHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_TEMPERATURE_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_MESSAGE_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_CALLS: _ClassVar[ErrorReason]
    ERROR_REASON_BATCH_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_CONFIDENCE_INSUFFICIENT: _ClassVar[ErrorReason]
    ERROR_REASON_SECONDS_NOT_MEASURED: _ClassVar[ErrorReason]
ON_INSUFFICIENT_UNSPECIFIED: OnInsufficient
ON_INSUFFICIENT_BEST: OnInsufficient
ON_INSUFFICIENT_REFUSE: OnInsufficient
EVIDENCE_UNSPECIFIED: Evidence
EVIDENCE_SUFFICIENT: Evidence
EVIDENCE_INSUFFICIENT: Evidence
EVIDENCE_UNFAMILIAR: Evidence
EVIDENCE_TOO_SLOW: Evidence
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_COMPLETE: StopReason
STOP_REASON_TOKEN_CAP: StopReason
STOP_REASON_DEADLINE: StopReason
STOP_REASON_LONGEST_SEARCH: StopReason
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_PROMPT_EMPTY: ErrorReason
ERROR_REASON_PROMPT_TOO_LONG: ErrorReason
ERROR_REASON_BUDGET_OUT_OF_RANGE: ErrorReason
ERROR_REASON_CAP_OUT_OF_RANGE: ErrorReason
ERROR_REASON_ARM_INVALID: ErrorReason
ERROR_REASON_INVALID_FILE: ErrorReason
ERROR_REASON_INVALID_BUNDLE: ErrorReason
ERROR_REASON_MISSING_WEIGHTS: ErrorReason
ERROR_REASON_MISSING_DEPENDENCY: ErrorReason
ERROR_REASON_ADDRESS_UNAVAILABLE: ErrorReason
ERROR_REASON_ENGINE_UNAVAILABLE: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_TOKEN_CAP_REACHED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_OBJECTIVE_OUT_OF_RANGE: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_OUTCOME_INVALID: ErrorReason
ERROR_REASON_OUTCOMES_OFF: ErrorReason
ERROR_REASON_OUTCOMES_UNAVAILABLE: ErrorReason
ERROR_REASON_MESSAGE_MALFORMED: ErrorReason
ERROR_REASON_STREAM_NOT_READ: ErrorReason
ERROR_REASON_STOPPING: ErrorReason
ERROR_REASON_PROMPT_INVALID: ErrorReason
ERROR_REASON_SEARCH_TOO_LONG: ErrorReason
ERROR_REASON_GAVE_WAY: ErrorReason
ERROR_REASON_TASK_UNKNOWN: ErrorReason
ERROR_REASON_INPUTS_INVALID: ErrorReason
ERROR_REASON_CODE_NOT_ALLOWED: ErrorReason
ERROR_REASON_MODEL_UNKNOWN: ErrorReason
ERROR_REASON_NOT_SEARCHABLE: ErrorReason
ERROR_REASON_TEMPERATURE_OUT_OF_RANGE: ErrorReason
ERROR_REASON_MESSAGE_MISSING: ErrorReason
ERROR_REASON_TOO_MANY_CALLS: ErrorReason
ERROR_REASON_BATCH_INVALID: ErrorReason
ERROR_REASON_CONFIDENCE_INSUFFICIENT: ErrorReason
ERROR_REASON_SECONDS_NOT_MEASURED: ErrorReason

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class Objective(_message.Message):
    __slots__ = ("budget", "average_budget", "target_accuracy", "price_per_flop", "max_seconds", "on_insufficient")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_BUDGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_FLOP_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ON_INSUFFICIENT_FIELD_NUMBER: _ClassVar[int]
    budget: float
    average_budget: float
    target_accuracy: float
    price_per_flop: float
    max_seconds: float
    on_insufficient: OnInsufficient
    def __init__(self, budget: _Optional[float] = ..., average_budget: _Optional[float] = ..., target_accuracy: _Optional[float] = ..., price_per_flop: _Optional[float] = ..., max_seconds: _Optional[float] = ..., on_insufficient: _Optional[_Union[OnInsufficient, str]] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("prompt", "messages", "objective", "inputs", "task", "conversation")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    objective: Objective
    inputs: _struct_pb2.Struct
    task: str
    conversation: str
    def __init__(self, prompt: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., inputs: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., task: _Optional[str] = ..., conversation: _Optional[str] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("decision", "bill", "call_id")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    bill: Bill
    call_id: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ..., call_id: _Optional[str] = ...) -> None: ...

class SolveRequest(_message.Message):
    __slots__ = ("prompt", "messages", "objective", "options", "inputs", "task", "conversation")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    objective: Objective
    options: SolveOptions
    inputs: _struct_pb2.Struct
    task: str
    conversation: str
    def __init__(self, prompt: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., options: _Optional[_Union[SolveOptions, _Mapping]] = ..., inputs: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., task: _Optional[str] = ..., conversation: _Optional[str] = ...) -> None: ...

class SolveResponse(_message.Message):
    __slots__ = ("solution",)
    SOLUTION_FIELD_NUMBER: _ClassVar[int]
    solution: Solution
    def __init__(self, solution: _Optional[_Union[Solution, _Mapping]] = ...) -> None: ...

class StreamSolveRequest(_message.Message):
    __slots__ = ("prompt", "messages", "objective", "options", "inputs", "task", "conversation")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    objective: Objective
    options: SolveOptions
    inputs: _struct_pb2.Struct
    task: str
    conversation: str
    def __init__(self, prompt: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., options: _Optional[_Union[SolveOptions, _Mapping]] = ..., inputs: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., task: _Optional[str] = ..., conversation: _Optional[str] = ...) -> None: ...

class StreamSolveResponse(_message.Message):
    __slots__ = ("round", "solution", "text", "stage")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SOLUTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    round: Round
    solution: Solution
    text: str
    stage: StageResult
    def __init__(self, round: _Optional[_Union[Round, _Mapping]] = ..., solution: _Optional[_Union[Solution, _Mapping]] = ..., text: _Optional[str] = ..., stage: _Optional[_Union[StageResult, _Mapping]] = ...) -> None: ...

class BatchPrompt(_message.Message):
    __slots__ = ("prompt", "messages", "inputs", "task")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    inputs: _struct_pb2.Struct
    task: str
    def __init__(self, prompt: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., inputs: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., task: _Optional[str] = ...) -> None: ...

class BatchBudget(_message.Message):
    __slots__ = ("generations", "flops", "money")
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    generations: float
    flops: float
    money: float
    def __init__(self, generations: _Optional[float] = ..., flops: _Optional[float] = ..., money: _Optional[float] = ...) -> None: ...

class RouteBatchRequest(_message.Message):
    __slots__ = ("prompts", "budget")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[BatchPrompt]
    budget: BatchBudget
    def __init__(self, prompts: _Optional[_Iterable[_Union[BatchPrompt, _Mapping]]] = ..., budget: _Optional[_Union[BatchBudget, _Mapping]] = ...) -> None: ...

class RouteBatchResponse(_message.Message):
    __slots__ = ("decisions", "expected", "bill")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[BatchDecision]
    expected: float
    bill: Bill
    def __init__(self, decisions: _Optional[_Iterable[_Union[BatchDecision, _Mapping]]] = ..., expected: _Optional[float] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ...) -> None: ...

class BatchDecision(_message.Message):
    __slots__ = ("decision", "call_id")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    call_id: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., call_id: _Optional[str] = ...) -> None: ...

class SolveBatchRequest(_message.Message):
    __slots__ = ("prompts", "budget", "options")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[BatchPrompt]
    budget: BatchBudget
    options: SolveOptions
    def __init__(self, prompts: _Optional[_Iterable[_Union[BatchPrompt, _Mapping]]] = ..., budget: _Optional[_Union[BatchBudget, _Mapping]] = ..., options: _Optional[_Union[SolveOptions, _Mapping]] = ...) -> None: ...

class SolveBatchResponse(_message.Message):
    __slots__ = ("result", "summary")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    result: BatchResult
    summary: BatchSummary
    def __init__(self, result: _Optional[_Union[BatchResult, _Mapping]] = ..., summary: _Optional[_Union[BatchSummary, _Mapping]] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("index", "call_id", "solution", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SOLUTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    call_id: str
    solution: Solution
    error: BatchError
    def __init__(self, index: _Optional[int] = ..., call_id: _Optional[str] = ..., solution: _Optional[_Union[Solution, _Mapping]] = ..., error: _Optional[_Union[BatchError, _Mapping]] = ...) -> None: ...

class BatchError(_message.Message):
    __slots__ = ("reason", "message", "bill")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    reason: ErrorReason
    message: str
    bill: Bill
    def __init__(self, reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ...) -> None: ...

class BatchSummary(_message.Message):
    __slots__ = ("solved", "failed", "bill", "spent", "expected")
    SOLVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    solved: int
    failed: int
    bill: Bill
    spent: float
    expected: float
    def __init__(self, solved: _Optional[int] = ..., failed: _Optional[int] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ..., spent: _Optional[float] = ..., expected: _Optional[float] = ...) -> None: ...

class GetBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetBundleResponse(_message.Message):
    __slots__ = ("bundle",)
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    bundle: Bundle
    def __init__(self, bundle: _Optional[_Union[Bundle, _Mapping]] = ...) -> None: ...

class RecordOutcomeRequest(_message.Message):
    __slots__ = ("call_id", "correct", "score")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    correct: bool
    score: float
    def __init__(self, call_id: _Optional[str] = ..., correct: _Optional[bool] = ..., score: _Optional[float] = ...) -> None: ...

class RecordOutcomeResponse(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    def __init__(self, changed: _Optional[bool] = ...) -> None: ...

class SolveOptions(_message.Message):
    __slots__ = ("arm", "max_generated_tokens", "max_scored_tokens", "seed", "allow_partial", "return_candidates", "temperature", "max_tokens")
    ARM_FIELD_NUMBER: _ClassVar[int]
    MAX_GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    RETURN_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    max_generated_tokens: int
    max_scored_tokens: int
    seed: int
    allow_partial: bool
    return_candidates: bool
    temperature: float
    max_tokens: int
    def __init__(self, arm: _Optional[str] = ..., max_generated_tokens: _Optional[int] = ..., max_scored_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., allow_partial: _Optional[bool] = ..., return_candidates: _Optional[bool] = ..., temperature: _Optional[float] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("text", "strategy", "parameters", "model", "stages")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    text: str
    strategy: str
    parameters: _containers.ScalarMap[str, float]
    model: str
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, text: _Optional[str] = ..., strategy: _Optional[str] = ..., parameters: _Optional[_Mapping[str, float]] = ..., model: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("arm", "confidence")
    ARM_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    arm: Arm
    confidence: float
    def __init__(self, arm: _Optional[_Union[Arm, _Mapping]] = ..., confidence: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("level", "probabilities", "arm", "expectation", "bundle_id")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    EXPECTATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    level: int
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    arm: Arm
    expectation: Expectation
    bundle_id: str
    def __init__(self, level: _Optional[int] = ..., probabilities: _Optional[_Iterable[float]] = ..., arm: _Optional[_Union[Arm, _Mapping]] = ..., expectation: _Optional[_Union[Expectation, _Mapping]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class Expectation(_message.Message):
    __slots__ = ("accuracy", "accuracy_low", "accuracy_high", "cost", "evidence", "corrected_average_budget")
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_LOW_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_HIGH_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_AVERAGE_BUDGET_FIELD_NUMBER: _ClassVar[int]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    cost: Cost
    evidence: Evidence
    corrected_average_budget: float
    def __init__(self, accuracy: _Optional[float] = ..., accuracy_low: _Optional[float] = ..., accuracy_high: _Optional[float] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., evidence: _Optional[_Union[Evidence, str]] = ..., corrected_average_budget: _Optional[float] = ...) -> None: ...

class Cell(_message.Message):
    __slots__ = ("level", "arm", "accuracy", "accuracy_low", "accuracy_high", "prompts", "cost")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_LOW_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_HIGH_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    level: int
    arm: Arm
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    prompts: float
    cost: Cost
    def __init__(self, level: _Optional[int] = ..., arm: _Optional[_Union[Arm, _Mapping]] = ..., accuracy: _Optional[float] = ..., accuracy_low: _Optional[float] = ..., accuracy_high: _Optional[float] = ..., prompts: _Optional[float] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("prompt_tokens", "generated_tokens", "scored_tokens", "generator_flops", "verifier_flops", "generations", "money", "seconds")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FLOPS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FLOPS_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: float
    generated_tokens: float
    scored_tokens: float
    generator_flops: float
    verifier_flops: float
    generations: float
    money: float
    seconds: float
    def __init__(self, prompt_tokens: _Optional[float] = ..., generated_tokens: _Optional[float] = ..., scored_tokens: _Optional[float] = ..., generator_flops: _Optional[float] = ..., verifier_flops: _Optional[float] = ..., generations: _Optional[float] = ..., money: _Optional[float] = ..., seconds: _Optional[float] = ...) -> None: ...

class Bill(_message.Message):
    __slots__ = ("prompt_tokens", "generated_tokens", "scored_tokens", "generator_flops", "verifier_flops", "engine_calls", "route_seconds", "generate_seconds", "score_seconds", "lines", "money")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FLOPS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FLOPS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_CALLS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    generated_tokens: int
    scored_tokens: int
    generator_flops: float
    verifier_flops: float
    engine_calls: int
    route_seconds: float
    generate_seconds: float
    score_seconds: float
    lines: _containers.RepeatedCompositeFieldContainer[BillLine]
    money: float
    def __init__(self, prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., scored_tokens: _Optional[int] = ..., generator_flops: _Optional[float] = ..., verifier_flops: _Optional[float] = ..., engine_calls: _Optional[int] = ..., route_seconds: _Optional[float] = ..., generate_seconds: _Optional[float] = ..., score_seconds: _Optional[float] = ..., lines: _Optional[_Iterable[_Union[BillLine, _Mapping]]] = ..., money: _Optional[float] = ...) -> None: ...

class BillLine(_message.Message):
    __slots__ = ("model", "role", "prompt_tokens", "generated_tokens", "scored_tokens", "flops", "money", "thinking_tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    THINKING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    role: str
    prompt_tokens: int
    generated_tokens: int
    scored_tokens: int
    flops: float
    money: float
    thinking_tokens: int
    def __init__(self, model: _Optional[str] = ..., role: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., scored_tokens: _Optional[int] = ..., flops: _Optional[float] = ..., money: _Optional[float] = ..., thinking_tokens: _Optional[int] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("number", "alive", "finished", "generated_tokens", "scored_tokens", "answer", "share", "model", "stage", "confidence")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    number: int
    alive: int
    finished: int
    generated_tokens: int
    scored_tokens: int
    answer: str
    share: float
    model: str
    stage: int
    confidence: float
    def __init__(self, number: _Optional[int] = ..., alive: _Optional[int] = ..., finished: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., scored_tokens: _Optional[int] = ..., answer: _Optional[str] = ..., share: _Optional[float] = ..., model: _Optional[str] = ..., stage: _Optional[int] = ..., confidence: _Optional[float] = ...) -> None: ...

class Solution(_message.Message):
    __slots__ = ("decision", "answer", "text", "share", "stop_reason", "bill", "candidates", "call_id", "no_answer", "reasoning", "answers_compared_as_text", "confidence", "stages")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NO_ANSWER_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_COMPARED_AS_TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    answer: str
    text: str
    share: float
    stop_reason: StopReason
    bill: Bill
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    call_id: str
    no_answer: str
    reasoning: str
    answers_compared_as_text: int
    confidence: float
    stages: _containers.RepeatedCompositeFieldContainer[StageResult]
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., answer: _Optional[str] = ..., text: _Optional[str] = ..., share: _Optional[float] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., call_id: _Optional[str] = ..., no_answer: _Optional[str] = ..., reasoning: _Optional[str] = ..., answers_compared_as_text: _Optional[int] = ..., confidence: _Optional[float] = ..., stages: _Optional[_Iterable[_Union[StageResult, _Mapping]]] = ...) -> None: ...

class StageResult(_message.Message):
    __slots__ = ("number", "arm", "answer", "confidence", "threshold", "ends")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    arm: Arm
    answer: str
    confidence: float
    threshold: float
    ends: bool
    def __init__(self, number: _Optional[int] = ..., arm: _Optional[_Union[Arm, _Mapping]] = ..., answer: _Optional[str] = ..., confidence: _Optional[float] = ..., threshold: _Optional[float] = ..., ends: _Optional[bool] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("steps", "answer", "finished", "tokens", "model", "reasoning")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    answer: str
    finished: bool
    tokens: int
    model: str
    reasoning: str
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., answer: _Optional[str] = ..., finished: _Optional[bool] = ..., tokens: _Optional[int] = ..., model: _Optional[str] = ..., reasoning: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("text", "score")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    text: str
    score: float
    def __init__(self, text: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("id", "digest", "models", "reference", "verifier", "task", "statistic", "edges", "default_objective", "cells", "tasks", "task_tables")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TASK_TABLES_FIELD_NUMBER: _ClassVar[int]
    id: str
    digest: str
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    reference: str
    verifier: VerifierInfo
    task: str
    statistic: str
    edges: _containers.RepeatedScalarFieldContainer[float]
    default_objective: Objective
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    task_tables: _containers.RepeatedCompositeFieldContainer[TaskTable]
    def __init__(self, id: _Optional[str] = ..., digest: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ..., reference: _Optional[str] = ..., verifier: _Optional[_Union[VerifierInfo, _Mapping]] = ..., task: _Optional[str] = ..., statistic: _Optional[str] = ..., edges: _Optional[_Iterable[float]] = ..., default_objective: _Optional[_Union[Objective, _Mapping]] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., tasks: _Optional[_Iterable[str]] = ..., task_tables: _Optional[_Iterable[_Union[TaskTable, _Mapping]]] = ...) -> None: ...

class TaskTable(_message.Message):
    __slots__ = ("task", "cells")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    task: str
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    def __init__(self, task: _Optional[str] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "model", "parameters", "temperature", "max_tokens", "worth")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WORTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    parameters: int
    temperature: float
    max_tokens: int
    worth: float
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., parameters: _Optional[int] = ..., temperature: _Optional[float] = ..., max_tokens: _Optional[int] = ..., worth: _Optional[float] = ...) -> None: ...

class VerifierInfo(_message.Message):
    __slots__ = ("kind", "parameters")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    parameters: int
    def __init__(self, kind: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...
