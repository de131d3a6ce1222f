// Events in MessagePack to the columns that the joiner takes, for the records of one stream of one job.
//
// The decoder is made from the job's features and labels, and takes what fits them beyond doubt. Everything else is
// marked as unfit and left to `streaming/codec.py`, which has the last word and knows the reasons. What the decoder
// takes, the codec takes too, with the same row: the packed rows of `tables/schema.py`, behind the label blocks of
// `streaming/labels.py`. `tests/streaming/test_block_decoder.py` holds the two to each other.
//
// A Decoder is used by one thread at a time. Decoding throws nothing but std::bad_alloc.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "joiner.h"
#include "messagepack.h"

namespace monolith::joining {

enum class Value : std::uint8_t { integer, text, flag, number };  // of a feature, on the wire
enum class Place : std::uint8_t { single, bucket, dense, bag };   // bucket: a number of which Python makes an id

// One feature, and what counts where a sample has no value of it.
struct Feature {
  std::string name;
  Value value;
  Place place;
  std::uint32_t width;            // of a dense feature
  std::uint64_t seed;             // of the hash of texts
  bool takes_missing;             // false: a record without the feature is unfit
  std::vector<std::int64_t> ids;  // that count where it is missing: at most one, but for a bag
  std::vector<double> numbers;    // likewise, of a dense feature: `width` of them
  std::vector<std::int64_t> nan;  // of a bucket: the id of NaN, if it has one
};

struct Task {
  std::string name;
  bool binary;  // labels are 0 and 1
};

struct EventRules {
  Kind kind;
  bool ignores_unknown;  // features of other names are passed over
  std::int64_t version;
  std::int64_t times_up, times_down;      // an event's time times `up`, divided by `down`, is in ms
  std::int64_t latest_ms, most_ahead_ms;  // event times allowed: up to here, and so far behind their ingestion
  double largest_weight, largest_label;   // of ids in bags; of labels and their weights
  std::uint64_t sampling_seed;            // of the draw that decides about negatives
};

// Columns of n records. Unfit ones have an empty row and zeros.
struct Events {
  std::vector<std::uint8_t> fit;
  std::vector<std::int64_t> event_time_ms;
  std::vector<std::uint8_t> heads;               // n rows
  std::vector<std::uint8_t> bag_data, keys;      // what follows the heads; request and item
  std::vector<std::int64_t> bag_ends, key_ends;  // n + 1 and 2 n + 1, from 0
  std::vector<std::uint64_t> draws;              // of shown features
  std::vector<float> labels, rates;              // of joined samples
  std::vector<std::int32_t> actions;             // numbers in `action_names`
  std::vector<std::string> action_names;         // in order of their first record
  std::vector<double> buckets;  // n rows of a number for each bucket, to be made an id; NaN: it has one
};

const double kNoNumber = std::nan("");  // what is packed for a number that is missing

class Decoder {
 public:
  Decoder(EventRules rules, std::vector<Feature> features, std::vector<Task> tasks);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  std::size_t head_bytes() const { return head_bytes_; }
  std::size_t bucket_count() const { return bucket_count_; }

  // `values`: n records; the i-th lies from ends[i] to ends[i + 1], which do not descend and stay within `values`.
  // `ingestion_ms`: when each of them was taken in.
  Events decode(std::string_view values, const std::int64_t* ends, const std::int64_t* ingestion_ms, std::size_t n);

 private:
  using Cursor = messagepack::Cursor;
  static constexpr std::size_t kNone = SIZE_MAX;

  // What is read of a record before the record is known to fit.
  struct Event {
    unsigned seen = 0;  // parts, as bits
    std::int64_t time = 0;
    std::string_view request, item, action;
  };

  bool decode_one(std::string_view value, std::int64_t ingestion_ms, std::size_t number, Events& into);
  bool part(std::string_view name, Cursor& in, Event& event);
  bool time_in_ms(std::int64_t time, std::int64_t ingestion_ms, std::int64_t& time_ms) const;
  bool features(Cursor& in);
  void begin();
  std::size_t number_of(std::string_view name, std::size_t expected) const;
  bool value(std::size_t number, Cursor& in);
  bool missing(std::size_t number);
  static bool id_of(const Feature& feature, Cursor& in, std::int64_t& id);
  bool bucket(std::size_t number, Cursor& in);
  bool dense(std::size_t number, Cursor& in);
  bool bag(std::size_t number, Cursor& in);
  bool weighted_bag(std::size_t number, std::size_t count, Cursor& in);
  void put_bag(std::size_t number, std::size_t ids, bool weighted);
  bool by_task(Cursor& in, bool are_labels);
  bool of_task(std::size_t task, Cursor& in, bool is_label);
  bool label_block();
  void write(const Event& event, std::int64_t time_ms, std::size_t number, Events& into);
  void put_id(std::size_t number, std::int64_t id);
  template <class T>
  void put(std::size_t at, T value) {
    std::memcpy(head_.data() + at, &value, sizeof value);
  }
  std::int32_t action_number(std::string_view action, Events& into);

  EventRules rules_;
  std::vector<Feature> features_;
  std::vector<Task> tasks_;
  std::unordered_map<std::string_view, std::size_t> numbers_;  // of the features, by name
  std::vector<std::size_t> at_;                                // where in a head the feature's id, numbers or count lie
  std::vector<std::size_t> bits_;  // of single ids: which presence bit; of buckets and bags: their number among such
  std::vector<std::size_t> bucket_of_;
  std::size_t presence_at_ = 0, head_bytes_ = 0, bucket_count_ = 0;

  // Of the record at hand.
  std::vector<std::uint8_t> head_;
  std::vector<double> buckets_;
  std::vector<std::vector<std::int64_t>> bags_;  // words of each bag, in the order of the features
  std::vector<std::int64_t> sorted_;
  std::vector<double> weights_of_ids_;
  std::vector<std::uint64_t> met_in_;  // number of the newest record that had the feature
  std::uint64_t turn_ = 0;
  std::vector<double> labels_, weights_;  // of each task
  std::vector<bool> has_label_, has_weight_;
  double rate_ = 1.0;
  std::string key_;
  std::unordered_map<std::string, std::int32_t> action_numbers_;
};

}  // namespace monolith::joining
