#include "server/stop_matcher.h"

#include <utility>

#include "base/check.h"

namespace tessera {

StopMatcher::StopMatcher(std::vector<std::string> stop_strings)
    : stop_strings_(std::move(stop_strings)), nodes_(1) {
  for (size_t i = 0; i < stop_strings_.size(); ++i) Insert(static_cast<int>(i));
  LinkFallbacks();
}

void StopMatcher::Insert(int stop_string) {
  const std::string& text = stop_strings_[stop_string];
  CHECK(!text.empty()) << "an empty stop string would match everywhere";
  CHECK_LT(text.size(), size_t{UINT16_MAX}) << "stop string longer than a node's depth can say";
  State node = kStart;
  for (const char byte : text) {
    State child = Child(node, byte);
    if (child < 0) {
      child = static_cast<State>(nodes_.size());
      Node added;
      added.byte = byte;
      added.depth = static_cast<uint16_t>(nodes_[node].depth + 1);
      added.next_sibling = nodes_[node].first_child;
      nodes_.push_back(added);
      nodes_[node].first_child = child;
    }
    node = child;
  }
  if (nodes_[node].match < 0) nodes_[node].match = static_cast<int16_t>(stop_string);
}

void StopMatcher::LinkFallbacks() {
  // Breadth first: a fallback is shallower than its node, so it is linked already.
  std::vector<State> queue = {kStart};
  for (size_t i = 0; i < queue.size(); ++i) {
    const State parent = queue[i];
    for (State child = nodes_[parent].first_child; child >= 0; child = nodes_[child].next_sibling) {
      Node& node = nodes_[child];
      if (parent != kStart) node.fallback = Next(nodes_[parent].fallback, node.byte);
      if (node.match < 0) node.match = nodes_[node.fallback].match;
      queue.push_back(child);
    }
  }
}

StopMatcher::State StopMatcher::Child(State node, char byte) const {
  State child = nodes_[node].first_child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
  return child;
}

StopMatcher::State StopMatcher::Next(State node, char byte) const {
  // Each byte deepens the state by one at most and each fallback makes it shallower: linear in all.
  for (;;) {
    const State child = Child(node, byte);
    if (child >= 0) return child;
    if (node == kStart) return kStart;
    node = nodes_[node].fallback;
  }
}

std::optional<StopMatcher::Match> StopMatcher::Advance(std::string_view piece, State* state) const {
  for (size_t i = 0; i < piece.size(); ++i) {
    *state = Next(*state, piece[i]);
    if (nodes_[*state].match >= 0) return Match{nodes_[*state].match, i + 1};
  }
  return std::nullopt;
}

std::optional<int> StopFilter::Append(std::string_view piece, std::string* output) {
  const size_t num_held_before = held_.size();
  held_.append(piece);
  const auto match = matcher_->Advance(piece, &state_);
  if (!match) {
    const size_t num_safe = held_.size() - matcher_->HeldBytes(state_);
    output->append(held_, 0, num_safe);
    held_.erase(0, num_safe);
    return std::nullopt;
  }
  const size_t match_size = matcher_->stop_strings()[match->stop_string].size();
  output->append(held_, 0, num_held_before + match->end - match_size);
  held_.clear();
  return match->stop_string;
}

void StopFilter::Flush(std::string* output) {
  output->append(held_);
  held_.clear();
}

}  // namespace tessera
