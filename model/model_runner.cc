#include "model/model_runner.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "model/weights.h"

namespace tessera {
namespace {

constexpr int kMaxBatchTokens = 1 << 16;
constexpr int kMaxRunning = 1 << 14;
constexpr int kMaxPages = 1 << 24;
constexpr int kLogprobsPerRow = kMaxLogprobs + 1;

int PagesFor(int num_tokens) { return (num_tokens + kPageTokens - 1) / kPageTokens; }

absl::Status CheckRange(const char* option, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": expected ", min, " to ", max, ", got ", value));
}

// Enough for 64 conversations of 2,900 tokens with a 135M model; more is asked for by name.
constexpr uint64_t kMaxDefaultKvBytes = uint64_t{4} << 30;

// Bytes that pages may take.
struct PageBudget {
  uint64_t default_bytes = 0;
  uint64_t max_bytes = 0;
};

PageBudget MachineBudget() {
  const uint64_t available = AvailableMemoryBytes();
  return {std::min(available / 2, kMaxDefaultKvBytes), available};
}

int DefaultPages(const Backend& backend, const ModelConfig& config, uint64_t budget_bytes,
                 int max_running, int max_context) {
  const uint64_t page_bytes = KvCache::PageBytes(backend, config.kv_spec(), config.num_layers);
  const uint64_t affordable = budget_bytes / page_bytes;
  const uint64_t useful =
      static_cast<uint64_t>(max_running) * static_cast<uint64_t>(PagesFor(max_context));
  return static_cast<int>(std::clamp<uint64_t>(std::min(affordable, useful), 1, kMaxPages));
}

// All but the number of pages.
absl::StatusOr<ExecutorLimits> MakeLimits(const ModelRunnerOptions& options,
                                          const ModelConfig& config, const Backend& backend) {
  RETURN_IF_ERROR(CheckRange("max_batch_tokens", options.max_batch_tokens, 1, kMaxBatchTokens));
  RETURN_IF_ERROR(CheckRange("max_running", options.max_running, 1, kMaxRunning));
  RETURN_IF_ERROR(CheckRange("max_context", options.max_context, 0, config.max_context));
  RETURN_IF_ERROR(CheckRange("num_pages", options.num_pages, 0, kMaxPages));
  ExecutorLimits limits;
  limits.page_tokens = kPageTokens;
  limits.max_batch_tokens = options.max_batch_tokens;
  limits.max_running = options.max_running;
  limits.max_context = options.max_context > 0 ? options.max_context : config.max_context;
  // Every row may be wanted, and forks may share one.
  limits.max_samples = std::max(limits.max_batch_tokens, limits.max_running);
  limits.vocab_size = config.vocab_size;
  limits.max_in_flight = backend.max_in_flight();
  return limits;
}

// The number of tokens that a slot may see is its sequence's, and that of a token in vain.
void ReserveSlots(const ExecutorLimits& limits, Backend* backend) {
  if (limits.max_in_flight == 1) return;
  backend->ReserveSlots(limits.max_running, std::min(limits.vocab_size, limits.max_context + 1));
}

// "cpu-avx512vnni" and "cpu-avx2" give the same bits: they are one device class, "cpu". The CUDA
// backend's whole name is its class, with its 16-bit type in it, which keys and values have too.
std::string DeviceClass(const Backend& backend) {
  const std::string_view name = backend.name();
  const std::string device_class(name.substr(0, name.find('-')));
  return name.starts_with("cuda") ? device_class : absl::StrCat(device_class, "-kvf16");
}

TokenStatus ToTokenStatus(SampleStatus status) {
  switch (status) {
    case SampleStatus::kOk:
      return TokenStatus::kOk;
    case SampleStatus::kNonFiniteLogits:
      return TokenStatus::kNonFiniteLogits;
    case SampleStatus::kNoTokenLeft:
      return TokenStatus::kNoTokenLeft;
  }
  return TokenStatus::kNonFiniteLogits;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Load(const GgufFile& file,
                                                               std::unique_ptr<Backend> backend,
                                                               const ModelRunnerOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(file));
  ASSIGN_OR_RETURN(ExecutorLimits limits, MakeLimits(options, config, *backend));
  ReserveSlots(limits, backend.get());
  // A pool that the machine has no memory for should fail at once; what a device has left for it
  // shows once the weights are there.
  const bool pages_come_first = options.device_bytes_for_pages == nullptr;
  ModelWeights weights;
  PageBudget budget;
  if (pages_come_first) {
    budget = MachineBudget();
  } else {
    ASSIGN_OR_RETURN(weights, LoadWeights(file, config, backend.get()));
    budget.default_bytes = budget.max_bytes = options.device_bytes_for_pages();
  }
  limits.num_pages = options.num_pages > 0 ? options.num_pages
                                           : DefaultPages(*backend, config, budget.default_bytes,
                                                          limits.max_running, limits.max_context);
  ASSIGN_OR_RETURN(KvCache cache,
                   KvCache::Create(backend.get(), config.kv_spec(), config.num_layers,
                                   limits.num_pages, budget.max_bytes));
  if (pages_come_first) {
    ASSIGN_OR_RETURN(weights, LoadWeights(file, config, backend.get()));
  }
  return std::unique_ptr<ModelRunner>(
      new ModelRunner(std::move(backend), config, limits, std::move(weights), std::move(cache)));
}

ModelRunner::ModelRunner(std::unique_ptr<Backend> backend, const ModelConfig& config,
                         const ExecutorLimits& limits, ModelWeights weights, KvCache cache)
    : backend_(std::move(backend)),
      config_(config),
      limits_(limits),
      fingerprint_(
          absl::StrCat("n", kNumericsVersion, "-", DeviceClass(*backend_), "-", weights.hash)),
      cache_(std::move(cache)),
      llama_(backend_.get(), config, std::move(weights),
             {.max_rows = limits.max_batch_tokens,
              .max_selected = limits.max_samples,
              .max_context = limits.max_context}),
      slots_(limits.max_running, std::min(limits.vocab_size, limits.max_context)),
      sample_rows_(Llama::kLogitsRows),
      sampled_(static_cast<size_t>(limits.max_samples)),
      logprobs_(sampled_.size() * kLogprobsPerRow) {
  flights_.reserve(static_cast<size_t>(limits.max_in_flight));
  for (int i = 0; i < limits.max_in_flight; ++i) flights_.emplace_back(limits);
}

StepTicket ModelRunner::Launch(const StepInput& input) {
  CHECK_LT(launched_ - awaited_, flights_.size()) << "steps in flight";
  CheckInput(input);
  StepFlight& flight = FlightOf(++launched_);
  flight.Take(input, cache_);
  for (const SlotStart& start : input.slot_starts) StartSlot(start);
  for (const PageCopy& copy : input.page_copies) cache_.CopyPage(copy);
  if (!input.tokens.empty()) {
    llama_.Forward(input.tokens, flight.layer_batch(), flight.sampled_rows(), &cache_,
                   flight.row_faults().data());
  }
  const int num_samples = static_cast<int>(input.samples.size());
  for (int first = 0; first < num_samples; first += Llama::kLogitsRows) {
    SampleChunk(input.samples, first, std::min(Llama::kLogitsRows, num_samples - first), &flight);
  }
  backend_->EndStep();
  return launched_;
}

StepResult ModelRunner::Wait(StepTicket ticket) {
  CHECK_EQ(ticket, awaited_ + 1) << "tickets are waited for in order, each once";
  CHECK_LE(ticket, launched_);
  awaited_ = ticket;
  backend_->AwaitStep();
  StepFlight& flight = FlightOf(ticket);
  RecordFaults(&flight);
  const std::span<const SampleResult> results = flight.results();
  for (size_t i = 0; i < results.size(); ++i) {
    StoreResult(flight, results[i], static_cast<int>(i));
  }
  return {.tokens = std::span(sampled_).first(results.size())};
}

void ModelRunner::CheckInput(const StepInput& input) const {
  const size_t num_sequences = input.kv_lengths.size();
  CHECK_LE(input.tokens.size(), static_cast<size_t>(limits_.max_batch_tokens));
  CHECK_LE(input.samples.size(), static_cast<size_t>(limits_.max_samples));
  CHECK_EQ(input.query_starts.size(), num_sequences + 1);
  CHECK_EQ(input.page_starts.size(), num_sequences + 1);
  CHECK_EQ(input.tokens.size(), static_cast<size_t>(input.query_starts.back()));
  CHECK_EQ(input.page_ids.size(), static_cast<size_t>(input.page_starts.back()));
  for (size_t i = 0; i < num_sequences; ++i) {
    const int num_rows = input.query_starts[i + 1] - input.query_starts[i];
    const int num_pages = input.page_starts[i + 1] - input.page_starts[i];
    CHECK(num_rows >= 1 && num_rows <= input.kv_lengths[i]) << num_rows << " rows";
    CHECK_LE(input.kv_lengths[i], limits_.max_context);
    CHECK_GE(num_pages, PagesFor(input.kv_lengths[i]));
  }
  for (PageId page : input.page_ids) CHECK(page >= 0 && page < limits_.num_pages) << page;
  for (TokenId token : input.tokens) CHECK(IsToken(token)) << token;
}

bool ModelRunner::IsToken(TokenId token) const {
  if (!IsLastToken(token)) return token < limits_.vocab_size;
  return device_keeps_slots() && slots_.IsStarted(SlotOfLastToken(token));
}

void ModelRunner::StartSlot(const SlotStart& start) {
  slots_.Start(start);
  if (!device_keeps_slots() || !start.params->has_penalties()) return;
  backend_->StartSlot(start.slot, slots_.seen(start.slot));
}

void ModelRunner::SampleChunk(std::span<const SampleRequest> samples, int first, int count,
                              StepFlight* flight) {
  float* logits = llama_.Logits(first, count);
  const int end = first + count;
  while (first < end) {
    const int num_rows = NumSampledTogether(samples.subspan(first, end - first));
    SampleRows(samples, logits, first, num_rows, flight);
    first += num_rows;
    logits += int64_t{num_rows} * config_.vocab_size;
  }
}

int ModelRunner::NumSampledTogether(std::span<const SampleRequest> samples) const {
  return static_cast<int>(
      std::find_if(samples.begin() + 1, samples.end(),
                   [this](const auto& sample) { return WaitsForDraft(sample); }) -
      samples.begin());
}

// Penalties of a draft's row count the drafts before it.
bool ModelRunner::WaitsForDraft(const SampleRequest& request) const {
  return request.draft >= 0 && slots_.params(request.slot).has_penalties();
}

void ModelRunner::SampleRows(std::span<const SampleRequest> samples, float* logits, int first,
                             int count, StepFlight* flight) {
  for (int i = 0; i < count; ++i) sample_rows_[i] = MakeSampleRow(samples[first + i]);
  const std::span<SampleResult> results = flight->results().subspan(first, count);
  backend_->Sample(logits, config_.vocab_size, std::span(sample_rows_).first(count), results);
  if (!device_keeps_slots()) CountOutputs(samples, first, count, flight->results());
}

// A device's slots take what is chosen, of drafts only where what follows depends on it.
SampleRow ModelRunner::MakeSampleRow(const SampleRequest& request) const {
  CHECK(slots_.IsStarted(request.slot)) << "slot " << request.slot << " has no sequence";
  CHECK(request.num_logprobs >= 0 && request.num_logprobs <= kMaxLogprobs) << request.num_logprobs;
  SampleRow row = {.params = &slots_.params(request.slot),
                   .position = request.position,
                   .seen = {},
                   .banned = request.banned,
                   .forced = request.forced,
                   .num_logprobs = request.num_logprobs,
                   .wants_logprob = request.wants_logprob};
  if (!device_keeps_slots()) {
    row.seen = slots_.seen(request.slot);
  } else if (WaitsForDraft(request)) {
    row.slot = request.slot;
    row.draft = request.draft;
  } else if (request.draft < 0 && request.forced < 0) {
    row.slot = request.slot;
  }
  return row;
}

// What a device's sampler does by itself. A draft that was not chosen leaves no token either.
void ModelRunner::CountOutputs(std::span<const SampleRequest> samples, int first, int count,
                               std::span<SampleResult> results) {
  for (int i = first; i < first + count; ++i) {
    const SampleRequest& request = samples[i];
    if (request.draft >= 0 && results[i - 1].token != request.draft) results[i].token = -1;
    if (request.forced >= 0 || results[i].token < 0) continue;
    slots_.AddOutput(request.slot, results[i].token);
  }
}

void ModelRunner::RecordFaults(StepFlight* flight) {
  for (const PageCopy& copy : flight->page_copies()) cache_.RecordCopy(copy);
  cache_.RecordFaults(flight->batch(), flight->row_faults());
}

void ModelRunner::StoreResult(const StepFlight& flight, const SampleResult& result, int index) {
  const SampleRequest& request = flight.samples()[index];
  SampledToken& sampled = sampled_[index];
  if (IsRejected(request, index)) {
    sampled = {.token = -1, .status = TokenStatus::kRejected, .logprobs = {}};
    return;
  }
  const bool is_faulty =
      cache_.IsFaulty(flight.batch(), flight.sampled_sequences()[index], request.position - 1);
  sampled = {.token = result.token,
             .status = is_faulty ? TokenStatus::kNonFiniteLogits : ToTokenStatus(result.status),
             .logprobs = {}};
  if (sampled.status != TokenStatus::kOk || !request.wants_logprob) return;
  const auto logprobs = std::span(logprobs_).subspan(size_t{kLogprobsPerRow} * index);
  std::transform(result.logprobs.begin(), result.logprobs.end(), logprobs.begin(),
                 [](const TokenLogprob& entry) {
                   return ScoredToken{.token = entry.token, .logprob = entry.logprob};
                 });
  sampled.logprobs = logprobs.first(result.logprobs.size());
}

bool ModelRunner::IsRejected(const SampleRequest& request, int index) const {
  if (request.draft < 0) return false;
  const SampledToken& before = sampled_[index - 1];
  return before.status != TokenStatus::kOk || before.token != request.draft;
}

}  // namespace tessera
