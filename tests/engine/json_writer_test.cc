#include "engine/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "engine/json.h"

namespace polystrate {
namespace {

std::string Quoted(std::string_view text) {
  JsonWriter json;
  json.String(text);
  return json.text();
}

std::string Number(double value) {
  JsonWriter json;
  json.Double(value);
  return json.text();
}

TEST(JsonWriterTest, KeepsOrderAndNests) {
  JsonWriter json;
  json.BeginObject().Key("z").Int(-1).Key("a").BeginArray().Int(0).BeginObject().EndObject();
  json.BeginArray().EndArray().Null().Bool(true).EndArray().Key("s").String("x").EndObject();
  EXPECT_EQ(json.text(), R"({"z":-1,"a":[0,{},[],null,true],"s":"x"})");
}

TEST(JsonWriterTest, EscapesStrings) {
  EXPECT_EQ(Quoted("a\"b\\c\n\t\r"), R"("a\"b\\c\n\t\r")");
  EXPECT_EQ(Quoted(std::string("\0\x01\x1f\x7f", 4)), R"("\u0000\u0001\u001f\u007f")");
  EXPECT_EQ(Quoted("\u00e9\U0001F600"), "\"\u00e9\U0001F600\"");
  EXPECT_EQ(Quoted("a\xff\xe2\x82z"), "\"a\ufffd\ufffdz\"");
}

TEST(JsonWriterTest, NumbersAreShortAndReadBack) {
  EXPECT_EQ(Number(0.1), "0.1");
  EXPECT_EQ(Number(3), "3");
  EXPECT_EQ(Number(-0.0), "-0");
  EXPECT_EQ(Number(1e300), "1e+300");
  EXPECT_EQ(Number(std::nan("")), "null");
  EXPECT_EQ(Number(-std::numeric_limits<double>::infinity()), "null");
  for (const double value : {1.0 / 3, 5e-324, 1.7976931348623157e308, 123456789.125}) {
    const auto json = Json::Parse("[" + Number(value) + "]", "number");
    ASSERT_TRUE(json.ok()) << json.status();
    EXPECT_EQ(*json->root().at(0).AsDouble("number"), value);
  }
  JsonWriter json;
  json.BeginArray().Float(0.1f).Int(std::numeric_limits<int64_t>::min()).EndArray();
  EXPECT_EQ(json.text(), "[0.1,-9223372036854775808]");
}

TEST(JsonWriterTest, EveryByteReadsBack) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  JsonWriter writer;
  writer.BeginObject().Key(all).String(all).EndObject();
  const auto json = Json::Parse(writer.text(), "all");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(*json->root().GetString(all), all);
}

TEST(JsonWriterDeathTest, MisuseIsABug) {
  EXPECT_DEATH(JsonWriter().BeginObject().Int(1), "CHECK failed");
  EXPECT_DEATH(JsonWriter().BeginArray().EndObject(), "CHECK failed");
  EXPECT_DEATH(JsonWriter().BeginArray().text(), "CHECK failed");
  EXPECT_DEATH(JsonWriter().Int(1).Int(2), "CHECK failed");
}

}  // namespace
}  // namespace polystrate
