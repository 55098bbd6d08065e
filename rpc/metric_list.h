// MetricList: metric families for Prometheus, put together one sample after the other.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/histogram.h"
#include "prometheus/metric_family.h"

namespace polystrate {

class MetricList {
 public:
  using Label = prometheus::ClientMetric::Label;
  using Type = prometheus::MetricType;

  // `common`: labels that every sample carries.
  explicit MetricList(std::vector<Label> common) : common_(std::move(common)) {}

  // Samples go to the last family that was begun.
  MetricList& Begin(const char* name, Type type, const char* help) {
    families_.push_back({name, help, type, {}});
    return *this;
  }
  MetricList& Add(double value, std::vector<Label> labels = {}) {
    prometheus::ClientMetric& metric = AddMetric(std::move(labels));
    metric.gauge.value = value;
    metric.counter.value = value;
    return *this;
  }
  MetricList& Add(const Histogram& histogram) {
    prometheus::ClientMetric::Histogram& out = AddMetric({}).histogram;
    out.sample_count = static_cast<uint64_t>(histogram.count());
    out.sample_sum = histogram.sum();
    uint64_t cumulative = 0;
    for (size_t i = 0; i < histogram.bounds().size(); ++i) {
      cumulative += static_cast<uint64_t>(histogram.count_in(i));
      out.bucket.push_back({cumulative, histogram.bounds()[i]});
    }
    out.bucket.push_back({out.sample_count, std::numeric_limits<double>::infinity()});
    return *this;
  }

  void Gauge(const char* name, double value, const char* help) {
    Begin(name, Type::Gauge, help).Add(value);
  }
  void Counter(const char* name, int64_t value, const char* help) {
    Begin(name, Type::Counter, help).Add(static_cast<double>(value));
  }
  void Distribution(const char* name, const Histogram& histogram, const char* help) {
    Begin(name, Type::Histogram, help).Add(histogram);
  }

  std::vector<prometheus::MetricFamily> Take() { return std::move(families_); }

 private:
  prometheus::ClientMetric& AddMetric(std::vector<Label> labels) {
    prometheus::ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label = std::move(labels);
    metric.label.insert(metric.label.end(), common_.begin(), common_.end());
    return metric;
  }

  const std::vector<Label> common_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace polystrate
