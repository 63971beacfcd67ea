#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Finds the first of several stop strings in a text that arrives in pieces: the automaton of Aho
// and Corasick, "Efficient string matching" (CACM 1975). Time is linear in the text, whatever the
// strings.
//
// The match that ends first wins; of those that end at the same byte the longest, which is the one
// that starts first (of equal strings the first listed). Immutable: a request's sequences share
// one.
class StopMatcher {
 public:
  using State = int32_t;  // where in the automaton a text has led to
  static constexpr State kStart = 0;

  struct Match {
    int stop_string = 0;  // index into stop_strings()
    size_t end = 0;       // bytes of the piece up to and including the match's last
  };

  // REQUIRES: no string is empty.
  explicit StopMatcher(std::vector<std::string> stop_strings);

  // Reads a piece of text, up to its first match. After a match *state has no further use.
  std::optional<Match> Advance(std::string_view piece, State* state) const;

  // How many of the last bytes read may yet become part of a match: the longest suffix of the text
  // that is a proper prefix of a stop string. The longest match that can follow starts no earlier.
  size_t HeldBytes(State state) const { return nodes_[state].depth; }

  const std::vector<std::string>& stop_strings() const { return stop_strings_; }

 private:
  // A prefix of a stop string. Children of a node are a linked list: at most one a stop string,
  // so 16.
  struct Node {
    char byte = 0;
    uint16_t depth = 0;
    int16_t match = -1;  // longest stop string that is a suffix of this prefix
    State first_child = -1;
    State next_sibling = -1;
    State fallback = kStart;  // the longest proper suffix that is a node, too
  };

  State Child(State node, char byte) const;
  State Next(State node, char byte) const;
  void Insert(int stop_string);
  void LinkFallbacks();

  const std::vector<std::string> stop_strings_;
  std::vector<Node> nodes_;  // [0] is the empty prefix
};

// One text under a StopMatcher: lets through what can no longer be part of a match.
class StopFilter {
 public:
  explicit StopFilter(std::shared_ptr<const StopMatcher> matcher) : matcher_(std::move(matcher)) {}

  // Appends to *output the text that has become safe. On a match: the text before it, and the index
  // of the stop string; nothing may follow.
  std::optional<int> Append(std::string_view piece, std::string* output);

  // Appends what was held back: no more text will come.
  void Flush(std::string* output);

 private:
  std::shared_ptr<const StopMatcher> matcher_;
  StopMatcher::State state_ = StopMatcher::kStart;
  std::string held_;
};

}  // namespace tessera
