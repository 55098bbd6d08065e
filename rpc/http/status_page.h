// The page that a browser shows of a coordinator: one file of HTML, CSS and JavaScript that reads
// GET status (rpc/coordinator/status_json.h), beside itself, each second. It asks for nothing
// else, and where that answers 401 or 403, for an API key, which it then sends as a Bearer token.
#pragma once

#include <string>
#include <string_view>

namespace polystrate {

std::string_view StatusPage();  // text/html, UTF-8

// Its Content-Security-Policy: this style, this script, nothing that is not the page's own.
std::string StatusPagePolicy();

}  // namespace polystrate
