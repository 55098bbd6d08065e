// SvgPlot: a picture of points and lines over two axes, as one SVG file that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace polystrate {

struct PlotPoint {
  double x = 0;
  double y = 0;
  std::string label;  // written beside the point; may be empty
};

struct PlotSeries {
  std::string name;  // in the legend
  std::vector<PlotPoint> points;
  bool markers = true;
  bool line = true;     // joins the points in their order
  bool dashed = false;  // that line
};

struct PlotAxis {
  std::string label;
  bool log = false;  // decades; every value must be > 0. Else from 0 to the largest value
};

struct SvgPlot {
  std::string title;
  PlotAxis x, y;
  std::vector<PlotSeries> series;

  // The SVG document. CHECKs that there is a point, and that logarithmic axes have values > 0.
  std::string Render() const;
};

// Writes `text` to `path`; INVALID_ARGUMENT with the flag's name and the path when it cannot.
absl::Status WriteTextFile(const std::string& flag, const std::string& path,
                           const std::string& text);

}  // namespace polystrate
