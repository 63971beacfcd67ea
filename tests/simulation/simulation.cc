#include "tests/simulation/simulation.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/philox.h"

namespace tessera {
namespace {

constexpr TimeNs kMillisecond = 1'000'000;

FinishReason Expected(const FakeModel::Choice& choice) {
  if (choice.status == TokenStatus::kNonFiniteLogits) return FinishReason::kNonFinite;
  if (choice.status == TokenStatus::kNoTokenLeft) return FinishReason::kNoTokenLeft;
  return FinishReason::kNone;
}

bool Same(const std::vector<ScoredToken>& a, const std::vector<ScoredToken>& b) {
  return std::ranges::equal(a, b, [](const ScoredToken& x, const ScoredToken& y) {
    return x.token == y.token && x.logprob == y.logprob;
  });
}

}  // namespace

void SimulationTotals::Add(const SimulationTotals& other) {
  num_steps += other.num_steps;
  num_overlapped_steps += other.num_overlapped_steps;
  num_requests += other.num_requests;
  num_refused += other.num_refused;
  num_tokens += other.num_tokens;
  num_preemptions += other.num_preemptions;
  num_cached_tokens += other.num_cached_tokens;
  num_page_copies += other.num_page_copies;
  num_drafts += other.num_drafts;
  num_drafts_accepted += other.num_drafts_accepted;
  for (int i = 0; i < 16; ++i) num_ends[i] += other.num_ends[i];
}

Simulation::Simulation(uint64_t seed, int max_in_flight)
    : random_(seed),
      world_(MakeWorld(&random_, max_in_flight)),
      workload_(world_, &random_),
      executor_(world_.limits),
      scheduler_(world_.limits, world_.options),
      builder_(world_.limits),
      num_to_come_(world_.num_requests) {
  executor_.model()->non_finite_one_in = world_.non_finite_one_in;
}

SimulationTotals Simulation::Run() {
  while (num_to_come_ > 0 || !in_flight_.empty() || scheduler_.HasWork()) {
    if (num_to_come_ > 0 && (random_.OneIn(world_.arrivals_one_in) || !scheduler_.HasWork())) {
      Arrive();
    }
    if (random_.OneIn(world_.disturbed_one_in)) Disturb();
    Step();
    if (num_to_come_ == 0 && in_flight_.empty() && !scheduler_.HasWork()) ResumeAll();
    CHECK_LE(totals_.num_steps, MostSteps()) << "the scheduler does not come to an end";
  }
  CheckAllEnded();
  totals_.num_preemptions = scheduler_.stats().num_preemptions;
  totals_.num_cached_tokens = scheduler_.stats().prefix_hit_tokens;
  totals_.num_drafts = scheduler_.stats().draft_tokens;
  totals_.num_drafts_accepted = scheduler_.stats().accepted_draft_tokens;
  return totals_;
}

void Simulation::Arrive() {
  --num_to_come_;
  Request request = workload_.Next(now_);
  if (!scheduler_.CheckAdmissible(request).ok()) {
    ++totals_.num_refused;
    return;
  }
  ++totals_.num_requests;
  Client client;
  client.request = request;
  const int pool = world_.limits.num_pages * world_.limits.page_tokens;
  client.max_length = std::min(world_.limits.max_context, pool);
  if (request.max_tokens >= 0) {
    client.max_length = static_cast<int>(request.prompt.size()) + request.max_tokens;
  }
  client.witnesses.resize(request.num_sequences);
  for (Witness& witness : client.witnesses) witness.tokens = request.prompt;
  const RequestId id = request.id;
  clients_.emplace(id, std::move(client));
  scheduler_.Add(std::move(request), now_);
}

// As the engine's, except that now and then a step is waited for though another could be launched.
void Simulation::Step() {
  const bool launched = LaunchStep();
  const bool is_full = static_cast<int>(in_flight_.size()) == world_.limits.max_in_flight;
  if (!in_flight_.empty() && (is_full || !launched || random_.OneIn(8))) CommitStep();
}

bool Simulation::LaunchStep() {
  now_ += random_.Between(0, 20) * kMillisecond;
  const bool must_run =
      in_flight_.empty() && scheduler_.HasWork() && scheduler_.NextDeadline() > now_;
  const StepPlan& plan = scheduler_.Plan(now_, &events_);
  scheduler_.CheckInvariants();
  Hear();
  CheckPlan(plan);
  CHECK(!plan.empty() || !must_run) << "there is work, but the plan is empty";
  if (plan.empty()) return false;
  ++totals_.num_steps;
  if (!in_flight_.empty()) ++totals_.num_overlapped_steps;
  totals_.num_page_copies += static_cast<int64_t>(plan.page_copies.size());
  in_flight_.push_back(executor_.Launch(builder_.Build(plan)));
  if (random_.OneIn(world_.disturbed_one_in)) Disturb();
  return true;
}

void Simulation::CommitStep() {
  now_ += random_.Between(0, 5) * kMillisecond;
  const StepTicket ticket = in_flight_.front();
  in_flight_.erase(in_flight_.begin());
  scheduler_.Commit(executor_.Wait(ticket), now_, &events_);
  scheduler_.CheckInvariants();
  Hear();
  CheckIndexedContents();
  if (random_.OneIn(8)) CheckSnapshot();
}

void Simulation::CheckPlan(const StepPlan& plan) {
  for (const PlannedSequence& planned : plan.sequences) {
    const Sequence& sequence = *planned.sequence;
    const Client& client = clients_.at(sequence.owner->request.id);
    CHECK(!client.witnesses[sequence.index].parked) << "a parked sequence gets rows";
    CHECK_GT(client.request.deadline, now_) << "an expired request gets rows";
  }
  CHECK_GT(scheduler_.NextDeadline(), now_);
}

// What clients and the server do to a request at any moment.
void Simulation::Disturb() {
  Client* const client = AnyClient();
  if (client == nullptr) return;
  switch (random_.Between(0, 9)) {
    case 0:
      CancelOne(client);
      break;
    case 1:
    case 2:
      FinishOne(client);
      break;
    default:
      ParkOrResumeOne(client);
  }
  scheduler_.CheckInvariants();
  Hear();
}

Simulation::Client* Simulation::AnyClient() {
  if (clients_.empty()) return nullptr;
  auto client = clients_.begin();
  std::advance(client, random_.Between(0, static_cast<int>(clients_.size()) - 1));
  return &client->second;
}

void Simulation::CancelOne(Client* client) {
  const auto lives = [](const Witness& w) { return w.finish == FinishReason::kNone; };
  const bool expected = std::ranges::any_of(client->witnesses, lives);
  for (Witness& witness : client->witnesses) witness.asked_to_end = FinishReason::kCancelled;
  CHECK_EQ(scheduler_.Cancel(client->request.id, FinishReason::kCancelled, now_, &events_),
           expected);
}

void Simulation::FinishOne(Client* client) {
  const int index = random_.Between(0, client->request.num_sequences - 1);
  Witness& witness = client->witnesses[index];
  const bool has_output = witness.tokens.size() > client->request.prompt.size();
  const bool expected = has_output && witness.finish == FinishReason::kNone;
  if (expected) witness.asked_to_end = FinishReason::kStopString;
  CHECK_EQ(scheduler_.Finish(client->request.id, index, FinishReason::kStopString, now_, &events_),
           expected);
}

void Simulation::ParkOrResumeOne(Client* client) {
  const int index = random_.Between(0, client->request.num_sequences - 1);
  Witness& witness = client->witnesses[index];
  witness.parked = !witness.parked;
  if (witness.parked) {
    ++witness.num_parked;
    scheduler_.Park(client->request.id, index);
  } else {
    scheduler_.Resume(client->request.id, index);
  }
}

void Simulation::ResumeAll() {
  for (auto& [id, client] : clients_) {
    for (int i = 0; i < client.request.num_sequences; ++i) {
      client.witnesses[i].parked = false;
      scheduler_.Resume(id, i);
    }
  }
}

void Simulation::Hear() {
  for (const TokenEvent& event : events_) CheckEvent(event);
  events_.clear();
}

void Simulation::CheckEvent(const TokenEvent& event) {
  const auto found = clients_.find(event.request);
  CHECK(found != clients_.end());
  Client& client = found->second;
  Witness& witness = client.witnesses.at(event.index);
  CHECK(witness.finish == FinishReason::kNone) << "an event after the last";
  CHECK_EQ(event.at, now_);
  CheckPromptLogprobs(event, client.request);
  CheckToken(event, client, witness);
  if (event.token >= 0) {
    witness.tokens.push_back(event.token);
    ++totals_.num_tokens;
  }
  CheckEnd(event, client, witness);
  witness.finish = event.finish;
  if (event.finish == FinishReason::kNone) return;
  CheckReport(event, client, witness);
  ++totals_.num_ends[static_cast<int>(event.finish)];
  workload_.Remember(witness.tokens);
}

// The token, or the reason why there is none, must be what the sequence alone would have had.
void Simulation::CheckToken(const TokenEvent& event, const Client& client, const Witness& witness) {
  const Request& request = client.request;
  const int prompt_length = static_cast<int>(request.prompt.size());
  const int num_outputs = static_cast<int>(witness.tokens.size()) - prompt_length;
  const bool from_outside =
      event.finish == witness.asked_to_end || event.finish == FinishReason::kDeadline;
  if (event.token < 0 && event.finish != FinishReason::kNone && from_outside) return;
  if (event.finish == FinishReason::kNonFinite && HasNonFiniteScore(request)) return;
  SamplingParams params = request.sampling;
  params.seed = ForkSeed(params.seed, event.index);
  std::span<const TokenId> banned;
  if (num_outputs < request.min_tokens) banned = request.banned_before_min;
  const FakeModel::Choice alone = executor_.model()->Choose(witness.tokens, prompt_length, params,
                                                            banned, request.num_logprobs);
  CHECK_EQ(event.token, alone.token)
      << "request " << event.request << " index " << event.index << " output " << num_outputs;
  CHECK(Same(event.logprobs, alone.logprobs));
  if (event.token < 0) CHECK(event.finish == Expected(alone));
}

bool Simulation::HasNonFiniteScore(const Request& request) {
  if (request.num_prompt_logprobs < 0) return false;
  const std::span<const TokenId> prompt(request.prompt);
  for (size_t length = 1; length < prompt.size(); ++length) {
    if (executor_.model()->IsNonFinite(FakeModel::ContextOf(prompt.first(length)))) return true;
  }
  return false;
}

void Simulation::CheckPromptLogprobs(const TokenEvent& event, const Request& request) {
  const bool is_first =
      event.index == 0 && event.token >= 0 &&
      clients_.at(event.request).witnesses[0].tokens.size() == request.prompt.size();
  if (!is_first || request.num_prompt_logprobs < 0) {
    CHECK(event.prompt_logprobs.empty());
    return;
  }
  const std::span<const TokenId> prompt(request.prompt);
  CHECK_EQ(event.prompt_logprobs.size(), prompt.size() - 1);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    const uint64_t context = FakeModel::ContextOf(prompt.first(i + 1));
    CHECK(Same(event.prompt_logprobs[i],
               executor_.model()->Logprobs(context, prompt[i + 1], request.num_prompt_logprobs)));
  }
}

void Simulation::CheckEnd(const TokenEvent& event, const Client& client, const Witness& witness) {
  const Request& request = client.request;
  const int num_outputs = static_cast<int>(witness.tokens.size() - request.prompt.size());
  const bool stops = event.token >= 0 && num_outputs > request.min_tokens &&
                     std::ranges::count(request.stop_tokens, event.token) > 0;
  const bool is_full = static_cast<int>(witness.tokens.size()) >= client.max_length;
  if (event.token >= 0) {
    const FinishReason expected = stops     ? FinishReason::kStopToken
                                  : is_full ? FinishReason::kLength
                                            : FinishReason::kNone;
    CHECK(event.finish == expected);
    CHECK_EQ(event.stop_token, stops ? event.token : -1);
    return;
  }
  switch (event.finish) {
    case FinishReason::kCancelled:
    case FinishReason::kStopString:
      CHECK(witness.asked_to_end == event.finish);
      break;
    case FinishReason::kDeadline:
      CHECK_LE(request.deadline, now_);
      break;
    case FinishReason::kNonFinite:
      CHECK_GT(world_.non_finite_one_in, 0);
      break;
    case FinishReason::kNoTokenLeft:
      CHECK_LT(num_outputs, request.min_tokens);
      break;
    default:
      CHECK(false) << "an event without token for no reason";
  }
}

void Simulation::CheckReport(const TokenEvent& event, const Client& client,
                             const Witness& witness) {
  const SequenceReport& report = event.report;
  const int prompt_length = static_cast<int>(client.request.prompt.size());
  CHECK_EQ(report.prompt_tokens, prompt_length);
  CHECK_EQ(report.completion_tokens, static_cast<int>(witness.tokens.size()) - prompt_length);
  CHECK_LT(report.cached_tokens, prompt_length);
  CHECK_LE(report.recomputed_tokens, report.num_preemptions * client.max_length);
  CHECK_EQ(report.finished, now_);
  if (client.request.num_prompt_logprobs >= 0) CHECK_EQ(report.cached_tokens, 0);
  if (event.request == clients_.begin()->first && event.index == 0) {
    // Nobody is older: only until it is pinned, and while it is parked, does it give way.
    CHECK_LE(report.num_preemptions,
             std::max(1, world_.options.max_preemptions) + witness.num_parked);
  }
  if (report.completion_tokens == 0) return;
  CHECK(report.arrived <= report.first_scheduled && report.first_scheduled <= report.first_token);
  CHECK_LE(report.first_token, report.finished);
}

// Every indexed page must hold what its tokens, after those of the pages before it, would store.
void Simulation::CheckIndexedContents() {
  const PrefixIndex& index = scheduler_.pages().index();
  const int page_tokens = world_.limits.page_tokens;
  for (PageId page = 0; page < world_.limits.num_pages; ++page) {
    if (!index.Contains(page)) continue;
    int position = 0;
    for (PageId p = index.parent(page); p != kNoPage; p = index.parent(p)) position += page_tokens;
    uint64_t stored = position == 0 ? 0 : executor_.StoredIn(index.parent(page), page_tokens - 1);
    for (int i = 0; i < index.num_tokens(page); ++i, ++position) {
      stored = FakeModel::StoredState(stored, index.tokens(page)[i], position);
      CHECK_EQ(executor_.StoredIn(page, i), stored) << "page " << page << " is not what it says";
    }
  }
}

void Simulation::CheckSnapshot() {
  SchedulerSnapshot snapshot;
  scheduler_.Explain(now_, &snapshot);
  size_t num_live = 0;
  for (const auto& [id, client] : clients_) {
    num_live += std::ranges::count(client.witnesses, FinishReason::kNone, &Witness::finish);
  }
  CHECK_EQ(snapshot.sequences.size(), num_live);
  for (const SequenceSnapshot& entry : snapshot.sequences) {
    const Witness& witness = clients_.at(entry.request).witnesses.at(entry.index);
    CHECK_EQ(entry.phase == SequencePhase::kParked, witness.parked);
    CHECK_EQ(entry.prompt_tokens + entry.output_tokens, static_cast<int>(witness.tokens.size()));
    CHECK(entry.phase != SequencePhase::kWaiting || entry.wait_reason != WaitReason::kNone ||
          snapshot.step == 0 || entry.waited <= now_);
  }
}

void Simulation::CheckAllEnded() {
  for (const auto& [id, client] : clients_) {
    for (const Witness& witness : client.witnesses) {
      CHECK(witness.finish != FinishReason::kNone) << "request " << id << " was forgotten";
    }
  }
  const SchedulerStats stats = scheduler_.stats();
  CHECK_EQ(stats.num_pages_used, 0);
  CHECK_EQ(stats.num_running_sequences, 0);
  CHECK_EQ(stats.num_waiting_requests, 0);
  CHECK_EQ(stats.num_preempted_sequences, 0);
  CHECK_EQ(stats.num_parked_sequences, 0);
  CHECK_EQ(stats.generated_tokens, totals_.num_tokens);
}

// Each step computes at least one row, and a sequence computes its rows at most once for each time
// it starts: after max_preemptions it gives way only to older ones, of which each in turn starts no
// more often, or because it was parked.
int64_t Simulation::MostSteps() const {
  int64_t most = 0;
  int64_t most_starts = 0;
  for (const auto& [id, client] : clients_) {
    for (const Witness& witness : client.witnesses) {
      most_starts += world_.options.max_preemptions + 2 + witness.num_parked;
      most += most_starts * client.max_length;
    }
  }
  return most;
}

}  // namespace tessera
