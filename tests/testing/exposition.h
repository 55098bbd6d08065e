// Prometheus' text exposition format 0.0.4, read strictly: what a lenient scraper would forgive is
// an error here.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace polystrate {

struct Exposition {
  using Labels = std::map<std::string, std::string>;
  struct Family {
    std::string type;
    std::string help;
    // By the sample's whole name (with _bucket, _sum, _count), then by labels.
    std::map<std::string, std::map<Labels, double>> samples;
  };
  std::map<std::string, Family> families;

  // Of the only sample of that name whose labels hold all of `labels`; CHECK-fails when there is
  // not exactly one.
  double Value(const std::string& name, const Labels& labels = {}) const;
};

// Checks names, labels and escapes; that HELP and TYPE come before a family's samples, which stand
// together; that no sample is there twice; that counters are named _total and not negative; that
// histograms have ascending, cumulative buckets up to +Inf, which is their _count, and a _sum.
absl::StatusOr<Exposition> ParseExposition(const std::string& text);

// GET `path` from 127.0.0.1:`port`: the body of a 200 answer with Prometheus' content type.
absl::StatusOr<std::string> Scrape(int port, const std::string& path = "/metrics");

}  // namespace polystrate
