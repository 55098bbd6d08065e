#include "launcher/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

// Pixels: the picture, and the frame that the axes draw in it.
constexpr double kWidth = 860, kHeightAboveLegend = 525;
constexpr double kLeft = 90, kRight = 840, kTop = 50, kBottom = 450;
constexpr double kLegendLine = 20;
constexpr double kLabelCharacter = 7.5;  // width, about, so that no label leaves the frame
// Readable on white, and apart for most of the colour-blind (Okabe and Ito 2008).
constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000"};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

// Values of one axis to pixels.
class Scale {
 public:
  Scale(bool log, std::vector<double> values, double begin, double end)
      : log_(log), begin_(begin), end_(end) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    CHECK(low != values.end());
    if (log) {
      MakeLogarithmic(*low, *high);
      return;
    }
    const double most = *high > 0 ? *high : 1;
    const double step = NiceStep(most / 6);
    high_ = std::ceil(most / step) * step;
    for (int i = 0; i * step <= high_ * 1.0001; ++i) ticks_.push_back(i * step);
  }

  double Pixel(double value) const {
    const double at = log_ ? std::log10(value) : value;
    return begin_ + (end_ - begin_) * (at - low_) / (high_ - low_);
  }
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  // ..., 1, 2, 5, 10, 20, 50, ...; number 0 is 1.
  static double RoundNumber(int index) {
    constexpr double kFactors[] = {1, 2, 5};
    const int decade = static_cast<int>(std::floor(index / 3.0));
    return kFactors[index - 3 * decade] * std::pow(10, decade);
  }

  // Between round numbers, which are ticks too, or over many decades the powers of ten alone.
  void MakeLogarithmic(double low, double high) {
    CHECK(low > 0);
    int first = 3 * static_cast<int>(std::floor(std::log10(low)));
    while (RoundNumber(first + 1) <= low) ++first;
    int last = first + 1;
    while (RoundNumber(last) < high) ++last;
    low_ = std::log10(RoundNumber(first));
    high_ = std::log10(RoundNumber(last));
    for (int i = first; i <= last; ++i) {
      if (i % 3 == 0 || last - first < 12) ticks_.push_back(RoundNumber(i));
    }
  }

  // The next of 1, 2, 5, 10, 20, ... (times a power of ten) from `raw` on.
  static double NiceStep(double raw) {
    const double decade = std::pow(10, std::floor(std::log10(raw)));
    for (double factor : {1, 2, 5}) {
      if (raw <= factor * decade * 1.0001) return factor * decade;
    }
    return 10 * decade;
  }

  bool log_;
  double begin_, end_;
  double low_ = 0, high_ = 0;
  std::vector<double> ticks_;
};

std::string Text(double x, double y, const char* anchor, const std::string& text,
                 const std::string& more = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y,
                         anchor, more, Escape(text));
}

std::string Line(double x1, double y1, double x2, double y2, const std::string& style) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2,
                         y2, style);
}

// 1500000 -> "1.5e6", 2000 -> "2000".
std::string TickText(double value) {
  const double magnitude = std::abs(value);
  if (magnitude >= 1e5 || (magnitude > 0 && magnitude < 1e-3)) {
    const double exponent = std::floor(std::log10(magnitude) + 1e-9);
    return absl::StrFormat("%ge%d", value / std::pow(10, exponent), static_cast<int>(exponent));
  }
  return absl::StrFormat("%g", value);
}

std::string Axes(const SvgPlot& plot, const Scale& x, const Scale& y) {
  const std::string grid = "stroke=\"#dddddd\"";
  std::string svg;
  for (double tick : x.ticks()) {
    absl::StrAppend(&svg, Line(x.Pixel(tick), kTop, x.Pixel(tick), kBottom, grid),
                    Text(x.Pixel(tick), kBottom + 20, "middle", TickText(tick)));
  }
  for (double tick : y.ticks()) {
    absl::StrAppend(&svg, Line(kLeft, y.Pixel(tick), kRight, y.Pixel(tick), grid),
                    Text(kLeft - 8, y.Pixel(tick) + 4, "end", TickText(tick)));
  }
  absl::StrAppendFormat(
      &svg,
      "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"none\" stroke=\"#444444\"/>\n",
      kLeft, kTop, kRight - kLeft, kBottom - kTop);
  absl::StrAppend(&svg,
                  Text((kLeft + kRight) / 2, kTop - 20, "middle", plot.title, " font-size=\"17\""),
                  Text((kLeft + kRight) / 2, kBottom + 48, "middle", plot.x.label),
                  Text(24, (kTop + kBottom) / 2, "middle", plot.y.label,
                       absl::StrFormat(" transform=\"rotate(-90 24 %g)\"", (kTop + kBottom) / 2)));
  return svg;
}

std::string Stroke(const PlotSeries& series, const char* color) {
  return absl::StrCat("stroke=\"", color, "\" stroke-width=\"2\"",
                      series.dashed ? " stroke-dasharray=\"6 5\"" : "");
}

std::string Marker(double x, double y, const char* color) {
  return absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y, color);
}

std::string Draw(const PlotSeries& series, const Scale& x, const Scale& y, const char* color) {
  std::string svg;
  if (series.line) {
    std::string path;
    for (const PlotPoint& point : series.points) {
      absl::StrAppendFormat(&path, "%.1f,%.1f ", x.Pixel(point.x), y.Pixel(point.y));
    }
    absl::StrAppend(&svg, "<polyline fill=\"none\" ", Stroke(series, color), " points=\"", path,
                    "\"/>\n");
  }
  for (const PlotPoint& point : series.points) {
    const double at_x = x.Pixel(point.x), at_y = y.Pixel(point.y);
    if (series.markers) absl::StrAppend(&svg, Marker(at_x, at_y, color));
    if (point.label.empty()) continue;
    const bool left = at_x + kLabelCharacter * static_cast<double>(point.label.size()) > kRight;
    absl::StrAppend(&svg, Text(at_x + (left ? -9 : 9), at_y - 7, left ? "end" : "start",
                               point.label, " font-size=\"12\""));
  }
  return svg;
}

}  // namespace

std::string SvgPlot::Render() const {
  std::vector<double> xs, ys;
  for (const PlotSeries& one : series) {
    for (const PlotPoint& point : one.points) {
      xs.push_back(point.x);
      ys.push_back(point.y);
    }
  }
  const Scale x_scale(x.log, xs, kLeft, kRight), y_scale(y.log, ys, kBottom, kTop);
  const double height = kHeightAboveLegend + kLegendLine * static_cast<double>(series.size());
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
      "font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"white\"/>\n",
      kWidth, height, kWidth, height);
  absl::StrAppend(&svg, Axes(*this, x_scale, y_scale));
  for (size_t i = 0; i < series.size(); ++i) {
    const char* color = kColors[i % std::size(kColors)];
    const double legend = kHeightAboveLegend + kLegendLine * static_cast<double>(i);
    absl::StrAppend(&svg, Draw(series[i], x_scale, y_scale, color));
    if (series[i].line) {
      absl::StrAppend(&svg, Line(kLeft, legend, kLeft + 28, legend, Stroke(series[i], color)));
    }
    if (series[i].markers) absl::StrAppend(&svg, Marker(kLeft + 14, legend, color));
    absl::StrAppend(&svg, Text(kLeft + 38, legend + 4, "start", series[i].name));
  }
  return svg + "</svg>\n";
}

absl::Status WriteTextFile(const std::string& flag, const std::string& path,
                           const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot write ", path));
}

}  // namespace polystrate
