#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/simulation/workload.h"
#include "tests/support/fake_executor.h"

namespace tessera {

struct SimulationTotals {
  int64_t num_steps = 0;
  int64_t num_overlapped_steps = 0;  // planned while another was in flight
  int64_t num_requests = 0;
  int64_t num_refused = 0;
  int64_t num_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t num_cached_tokens = 0;
  int64_t num_page_copies = 0;
  int64_t num_drafts = 0;
  int64_t num_drafts_accepted = 0;
  int64_t num_ends[16] = {};  // by FinishReason

  void Add(const SimulationTotals& other);
};

// A random workload in a random world, from one seed. After every step it checks the scheduler's
// invariants, that what the prefix index claims is what the pages hold, and that each sequence's
// tokens and logprobs are those it would be given alone; at the end, that every sequence ended
// exactly once and all pages and slots came back. Aborts at the first difference.
class Simulation {
 public:
  Simulation(uint64_t seed, int max_in_flight);

  SimulationTotals Run();

 private:
  // What a sequence was given so far, and what the simulation did to it.
  struct Witness {
    std::vector<TokenId> tokens;  // prompt, then output
    FinishReason finish = FinishReason::kNone;
    FinishReason asked_to_end = FinishReason::kNone;
    bool parked = false;
    int num_parked = 0;
  };
  struct Client {
    Request request;
    int max_length = 0;
    std::vector<Witness> witnesses;
  };

  void Arrive();
  void Step();
  bool LaunchStep();
  void CommitStep();
  void CheckPlan(const StepPlan& plan);
  void Disturb();
  void CancelOne(Client* client);
  void FinishOne(Client* client);
  void ParkOrResumeOne(Client* client);
  void ResumeAll();
  Client* AnyClient();

  void Hear();
  void CheckEvent(const TokenEvent& event);
  void CheckToken(const TokenEvent& event, const Client& client, const Witness& witness);
  bool HasNonFiniteScore(const Request& request);
  void CheckPromptLogprobs(const TokenEvent& event, const Request& request);
  void CheckEnd(const TokenEvent& event, const Client& client, const Witness& witness);
  void CheckReport(const TokenEvent& event, const Client& client, const Witness& witness);
  void CheckIndexedContents();
  void CheckSnapshot();
  void CheckAllEnded();
  int64_t MostSteps() const;

  Random random_;
  const World world_;
  Workload workload_;
  FakeExecutor executor_;
  Scheduler scheduler_;
  StepBuilder builder_;

  TimeNs now_ = 0;
  std::vector<StepTicket> in_flight_;  // oldest first
  int num_to_come_;
  std::map<RequestId, Client> clients_;
  std::vector<TokenEvent> events_;
  SimulationTotals totals_;
};

}  // namespace tessera
