"""Parse dirty numbers, ages and categories; log every change and removal with its reason."""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe, Value, spelling
from mdf_detectron.data.sources.kit.account import ValueLog
from mdf_detectron.errors import DatasetError, shorten

EMPTY_WORDS = frozenset({"", "na", "n/a", "n.a.", "k.a.", "nan", "nat", "none", "null", "nil", "-", "--", "–", "—", ".",
                         "?", "unknown", "unk", "missing", "not available", "unbekannt", "keine angabe", "<na>",
                         "(null)", "\\n", "-nan", "1.#qnan", "1.#ind"})  # fmt: skip
"""Folded spellings of a missing value, besides the errors of spreadsheets (#N/A, #DIV/0!, #NV, #WERT!)."""

SEX_WORDS = {"f": "F", "female": "F", "woman": "F", "w": "F", "weiblich": "F", "weibl.": "F", "frau": "F",
             "m": "M", "male": "M", "man": "M", "männlich": "M", "männl.": "M", "mann": "M",
             "o": "O", "other": "O", "d": "O", "divers": "O"}  # fmt: skip

YES_NO_WORDS = {"yes": "yes", "y": "yes", "true": "yes", "ja": "yes", "j": "yes",
                "no": "no", "n": "no", "false": "no", "nein": "no"}  # fmt: skip

UNITS = frozenset("% ‰ c f mmhg cmh2o kpa pa kg g mg μg ng ml dl l m cm mm mol mmol μmol nmol pmol u iu ie mmu bpm s "
                  "sec min h meq fl pg years".split())  # fmt: skip
"""Folded units without a slash or degree sign, which tell others from text."""

_SHEET_ERROR = re.compile(r"#n/?[av]( n/a)?|#[^\W\d]+(/0)?[!?]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_WITH_UNIT = re.compile(
    r"([+-]?(?:\d{1,3}(?:[ '’]\d{3})+|\d)[\d.,]*(?:e[+-]?\d+)?) ?((?:x ?)?10\^?\d+ ?/.*|[^\d\s.,].*)", re.IGNORECASE
)
_AGE = re.compile(
    r"(-?\d+(?:[.,]\d+)?)\s*(y|yr|yrs|years?|j|jahre?|m|mo|months?|w|wk|weeks?|d|days?)?\.?(?:\s*old)?", re.IGNORECASE
)
_AGE_NAME = re.compile(r"(^|[^a-z])age([^a-z]|$)|patientage|alter(?![a-z])", re.IGNORECASE)
_ADVICE = re.compile(r" \(--{0}[^()]*\)|(?:;|, or) (?:(?!;|, or|[(]).)*--{0}[^;]*".format("(?!key|columns|ignore-)"))
_UNITS_A_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}
_MINUS = str.maketrans(dict.fromkeys("−‒–—﹣-", "-"))

NOT_A_NUMBER, BOOLEAN, INFINITE = "not a number", "a boolean is not a number", "not finite"
DECIMAL_COMMA = "a decimal comma (--decimal-comma reads it)"
GROUPS_OR_DECIMALS = "a comma before three digits: thousands (--thousands ,) or decimals (--decimal-comma)"
OTHER_UNIT = "in another unit than the column's"
NOT_A_CATEGORY = "not in the vocabulary"
EMPTY, CODE = "empty", "a code for a missing value"
Parsed = tuple[float | None, str | None]
LIMIT, GROUPED = "the limit of a value beyond it (<, >)", "with thousands separators"


def fold(value: Any) -> str:
    """Normalize text for comparison: case-folded, white space stripped and collapsed."""
    return " ".join(str(value).split()).casefold()


def is_empty(value: Any) -> bool:
    """Tell whether a raw value is missing, in any common spelling."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    text = fold(value)
    return text in EMPTY_WORDS or (text[0] == "#" and _SHEET_ERROR.fullmatch(text) is not None)


def _is_boolean(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_") or fold(value) in ("true", "false", "yes", "no")


def parse_number(value: Any, decimal_comma: bool = False, thousands: str = "", unit: str = "") -> Parsed:
    """Parse a number from a raw value that is not empty.

    Blanks and apostrophes separate thousands, as does a mark that cannot be the decimal one ("1,234.5").

    Args:
        decimal_comma: read "1.234,5" as 1234.5.
        thousands: a further separator, which is "," or ".".
        unit: accept this unit after the number, in any case.

    Returns:
        (number, None), (number, how it was read) for notations such as "<0.5", or (None, why not).
    """
    if _is_boolean(value):
        return None, BOOLEAN
    if isinstance(value, Real):  # of a spreadsheet
        return (float(value), None) if -1e308 < value < 1e308 else (None, INFINITE)
    text, how = _without_limit(value)
    text, found = split_unit(text)
    if found and unit_key(found) != unit_key(unit):
        return None, OTHER_UNIT
    mark, other = (",", ".") if decimal_comma else (".", ",")
    groups = " '’" + thousands + (other if mark in text or text.count(other) > 1 else "")
    if re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}([{groups}]\d{{3}})+({re.escape(mark)}\d+)?", text):
        text, how = re.sub(f"[{groups}]", "", text), how or GROUPED
    if decimal_comma and "." not in text:
        text = text.replace(",", ".")
    elif _COMMA_NUMBER.fullmatch(text):
        return None, DECIMAL_COMMA if not is_grouped(text, ",") else GROUPS_OR_DECIMALS
    if text.casefold().lstrip("+-") in ("inf", "infinity"):
        return None, INFINITE
    if not _NUMBER.fullmatch(text):
        return None, NOT_A_NUMBER
    number = float(text)
    return (number, how or ("a number with its unit" if found else None)) if math.isfinite(number) else (None, INFINITE)


def write_number(number: float, recipe: TableRecipe) -> str:
    """Write a number in the table's notation, as :func:`parse_number` reads it."""
    return f"{number:g}".replace(".", "," if recipe.decimal_comma else ".")


def is_grouped(value: Any, mark: str) -> bool:
    """Tell whether a text could be a number with ``mark`` between thousands."""
    return re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}({re.escape(mark)}\d{{3}})+", str(value).strip()) is not None


def split_unit(text: str) -> tuple[str, str]:
    """Split "7,2 G/l" into "7,2" and "G/l"; the unit is "" if the text is not a number with a unit."""
    match = _WITH_UNIT.fullmatch(text)
    return (match[1], match[2].strip()) if match and is_unit(match[2]) else (text, "")


def unit_of(value: Any) -> str:
    """Return the unit after the number of a raw value, or ""."""
    return split_unit(_without_limit(value)[0])[1]


def is_unit(text: str) -> bool:
    """Tell whether a text is a unit: a known one, or letters with a slash or a degree sign."""
    key = unit_key(text)
    letters, digits = (len(re.findall(kind, key)) for kind in (r"[^\W\d_]", r"\d"))
    return key in UNITS or (any(mark in key for mark in "/°") and 0 < letters < 20 and digits < 6)


def unit_key(unit: str) -> str:
    """Normalize a unit for comparison: "10^9 / L" gives "109/l"."""
    return re.sub(r"[\s^*·]|^x(?=10)", "", fold(unit))


def _without_limit(value: Any) -> tuple[str, str | None]:
    """Return a text with plain blanks and minus signs and without "<" or ">", and whether it had one."""
    text = " ".join(str(value).split()).translate(_MINUS)
    return (text.lstrip("<>≤≥= "), LIMIT) if text[:1] in set("<>≤≥") else (text, None)


def parse_age(value: Any) -> Parsed:
    """Parse an age in years from a number or a DICOM age ("062Y", "62", "62 years", "018M", "10D", "> 89", "90+").

    Return as :func:`parse_number` does; ages in months, weeks or days have two decimals.
    """
    if _is_boolean(value):
        return None, BOOLEAN
    text, limit = _without_limit(value)
    match = _AGE.fullmatch(text.removesuffix("+").strip())
    if not match:
        return None, INFINITE if text.casefold().lstrip("+-") in ("inf", "infinity") else NOT_A_NUMBER
    number, unit = float(match[1].replace(",", ".")), (match[2] or "y")[0].lower()
    limit = LIMIT if text.endswith("+") else limit
    if unit in "yj":
        return number, limit or (None if match[2] is None else "an age with its unit")
    return round(number / _UNITS_A_YEAR[unit], 2), limit or "an age in months, weeks or days"


def is_age(*names: str) -> bool:
    """Tell whether any of a column's names says that it is an age."""
    return any(_AGE_NAME.search(name) for name in names)


def read_value(value: Any, column: ClinicalColumn, recipe: TableRecipe) -> tuple[Value, str | None, str | None]:
    """Read a raw value of a table, a DICOM tag or a form as the schema's column allows it.

    Returns:
        (value, how it differs from what was written, None), or (None, None, why not); :data:`EMPTY` and :data:`CODE`
        are missing values.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, None, EMPTY
    mapped = {fold(raw): to for raw, to in column.mapping.items()}.get(spelling(value))
    changed = None if mapped is None or str(value) == mapped else "mapped by the schema"
    value = value if mapped is None else mapped
    is_word = column.kind == "categorical" and str(value) in column.vocabulary
    if is_empty(value) and not is_word:
        return None, None, EMPTY
    if column.is_code(value):
        return None, None, CODE
    if column.kind == "categorical":
        word, how = _category(value, column)
        return word, how or changed, NOT_A_CATEGORY if word is None else None
    if is_age(column.name, column.source):
        number, how = parse_age(value)
    else:
        number, how = parse_number(value, recipe.decimal_comma, recipe.thousands, column.unit)
    if number is None:
        return None, None, how
    if column.is_code(number):
        return None, None, CODE
    if not column.minimum <= number <= column.maximum:
        return None, None, outside(column)
    return number, how or changed, None


def outside(column: ClinicalColumn) -> str:
    """Return why a numeric column does not have a value outside its range."""
    return f"outside {column.minimum:g} to {column.maximum:g} {column.unit}".rstrip()


def for_prediction(text: str, recipe: TableRecipe) -> str:
    """Replace advice about options that only ``mdf prepare`` has by how the training table was read."""
    plain = _ADVICE.sub("", text)
    how = ", ".join(f"{name} {value}" for name, value in recipe.to_dict().items()) or "with no option"
    return text if plain == text else f"{plain}, and it is read as the training table was ({how})"


def read_record(
    raw: Mapping[str, Any], schema: ClinicalSchema, where: str, *, typed: bool = False
) -> tuple[dict[str, Value], list[str]]:
    """Read raw values by column as preparation does; return the record and notes about values that it cannot read.

    Args:
        typed: a person wrote them: refuse what cannot be read, too.

    Raises:
        DatasetError: an unknown column, or a value outside the range that is possible in a patient.
    """
    schema.check_names(raw, where)
    record, notes = {}, []
    for column in schema.columns:
        if column.name not in raw:
            continue
        record[column.name], _, why_not = read_value(raw[column.name], column, schema.table)
        if why_not in (None, EMPTY, CODE):
            continue
        text = f"column '{column.name}' is {shorten(raw[column.name])}: {for_prediction(why_not, schema.table)}"
        if typed or (column.kind == "numeric" and why_not == outside(column)):
            raise DatasetError(f"{where}: {text}; correct the value, or leave it empty")
        notes.append(f"{text}; it is missing to the model")
    return record, notes


def read_given(record: Mapping[str, Any] | None, schema: ClinicalSchema, where: str) -> dict[str, Value]:
    """Read numbers written as texts as :func:`read_record`, and all else as :meth:`ClinicalSchema.parse_record`."""
    if hasattr(record, "items"):
        texts = {c.name: record[c.name] for c in schema.numeric if isinstance(record.get(c.name), str)}
        record = {**dict(record.items()), **read_record(texts, schema, where, typed=True)[0]}
    return schema.parse_record(record, where)


def clean_value(value: Any, column: ClinicalColumn, log: ValueLog, recipe: TableRecipe | None = None) -> Value:
    """Return a raw value as :func:`read_value` reads it, or None; log changes and removals."""
    read, how, why_not = read_value(value, column, recipe or TableRecipe())
    if why_not:
        log.remove(column.name, why_not, None if why_not == EMPTY else value)
    elif how:
        log.change(column.name, how, value)
    return read


def _category(value: Any, column: ClinicalColumn) -> tuple[str | None, str | None]:
    """Return the word of the vocabulary, or None, and how it differs from the value."""
    for text in (str(value), spelling(value)):
        if text in column.vocabulary:
            return text, None
    chosen = {fold(word): word for word in column.vocabulary}.get(fold(value))
    for words in (SEX_WORDS, YES_NO_WORDS):
        word = words.get(fold(value))
        if chosen is None and word in column.vocabulary and set(column.vocabulary) <= set(words.values()):
            chosen = word
    return chosen, "another spelling"
