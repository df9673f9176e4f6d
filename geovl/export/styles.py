"""Styles of a run's classes as text: QML for QGIS, SLD for map servers, and what GDAL keeps of classes beside a raster.

A class is found by its name, so the name stands in a style letter by letter. What people read is cleaned: no control
characters and nothing that turns the direction of writing. Characters that XML cannot hold at all become U+FFFD; a
class so named keeps its place in the legend, and its polygons stay without colour.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

import rasterio

from geovl.export.formats import AUX, Layer
from geovl.palette import rgba

FILL_OPACITY = 0.43
"""Of polygons: what lies below stays visible."""
SHAPEFILE_BYTES = 254
"""Of a text in a Shapefile, at most."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JOINERS = "\u200c\u200d"  # within words of several scripts, and emoji
_QML = '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.22" styleCategories="Symbology">\n'
_NODATA = "nodata"
_BACKGROUND = "background"


Styles = tuple[Mapping[str, str], tuple[str, ...]]
"""What stands beside a file, suffix to text, and warnings."""


def polygons(layer: Layer) -> Styles:
    """Return the styles beside a file of polygons."""
    return _polygons(layer.colors, layer.name)


def shapefile(layer: Layer) -> Styles:
    """Return the styles beside a Shapefile, in which long names were cut."""
    colors: dict[str, str] = {}
    for name, color in layer.colors.items():
        colors.setdefault(cut(name), color)
    return _polygons(colors, layer.name)


def _polygons(colors: Mapping[str, str], name: str) -> Styles:
    return {".qml": polygons_qml(colors), ".sld": polygons_sld(colors, name)}, unfit(colors)


def labels(layer: Layer) -> Styles:
    """Return the styles beside a label raster.

    Raises:
        OSError: The raster cannot be read.
    """
    try:
        with rasterio.open(layer.labels) as dataset:
            nodata = dataset.nodata
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error
    styles = {
        AUX: categories(layer.colors, None if nodata is None else int(nodata)),
        ".qml": labels_qml(layer.colors),
        ".sld": labels_sld(layer.colors, layer.name),
    }
    return styles, ()


# ---------------------------------------------------------------------------------------------
# Text


def unfit(names: Iterable[str]) -> tuple[str, ...]:
    """Return a warning where XML cannot hold names of classes."""
    found = ", ".join(repr(legible(name)) for name in names if _NOT_XML.search(name))
    return (f"No style can hold the control characters in the name of {found}: it has no colour.",) if found else ()


def cut(name: str) -> str:
    """Return a name as it is read from a Shapefile."""
    return name.encode(errors="replace")[:SHAPEFILE_BYTES].decode(errors="ignore").strip(" ")


def legible(name: str) -> str:
    """Return a name as people may be shown it."""
    kept = (" " if part in "\t\r\n" else part for part in name)
    return "".join(part for part in kept if part.isprintable() or part in _JOINERS) or "?"


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text), {"\r": "&#13;"})


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


def _mark(kind: str) -> str:
    """Return the comment by which a style is known as geovl's: see :mod:`geovl.export.formats`."""
    return f"<!-- geovl: {kind} -->\n"


# ---------------------------------------------------------------------------------------------
# Polygons


def polygons_qml(colors: Mapping[str, str]) -> str:
    """Return a QGIS style: a fill and an outline per class."""
    categories_, symbols = [], []
    for index, (name, color) in enumerate(colors.items()):
        red, green, blue, _ = rgba(color)
        categories_.append(
            f'<category value={_attribute(name)} label={_attribute(legible(name))} symbol="{index}" render="true"'
            ' type="string"/>\n'
        )
        options = "".join(
            f'<Option type="QString" name="{key}" value="{value}"/>'
            for key, value in (
                ("color", f"{red},{green},{blue},{round(255 * FILL_OPACITY)}"),
                ("outline_color", f"{red},{green},{blue},255"), ("outline_width", "0.4"), ("style", "solid"),
            )
        )  # fmt: skip
        symbols.append(
            f'<symbol type="fill" name="{index}" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{options}</Option></layer></symbol>\n'
        )
    return (
        f'{_QML}{_mark("polygons")}<renderer-v2 type="categorizedSymbol" attr="class" symbollevels="0"'
        f' enableorderby="0">\n<categories>\n{"".join(categories_)}</categories>\n<symbols>\n{"".join(symbols)}'
        "</symbols>\n</renderer-v2>\n</qgis>\n"
    )


def polygons_sld(colors: Mapping[str, str], name: str) -> str:
    """Return a Styled Layer Descriptor 1.1: a rule per class.

    Args:
        colors: Class to ``#rrggbb``.
        name: Of the layer.
    """
    rules = "".join(
        f"<se:Rule>\n<se:Name>{_text(legible(entry))}</se:Name>\n"
        f"<se:Description><se:Title>{_text(legible(entry))}</se:Title></se:Description>\n"
        "<ogc:Filter><ogc:PropertyIsEqualTo><ogc:PropertyName>class</ogc:PropertyName>"
        f"<ogc:Literal>{_text(entry)}</ogc:Literal></ogc:PropertyIsEqualTo></ogc:Filter>\n"
        f'<se:PolygonSymbolizer><se:Fill><se:SvgParameter name="fill">{color}</se:SvgParameter>'
        f'<se:SvgParameter name="fill-opacity">{FILL_OPACITY}</se:SvgParameter></se:Fill>'
        f'<se:Stroke><se:SvgParameter name="stroke">{color}</se:SvgParameter>'
        '<se:SvgParameter name="stroke-width">1</se:SvgParameter></se:Stroke></se:PolygonSymbolizer>\n</se:Rule>\n'
        for entry, color in colors.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<StyledLayerDescriptor version="1.1.0"'
        ' xmlns="http://www.opengis.net/sld" xmlns:se="http://www.opengis.net/se"'
        ' xmlns:ogc="http://www.opengis.net/ogc" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:schemaLocation="http://www.opengis.net/sld'
        ' http://schemas.opengis.net/sld/1.1.0/StyledLayerDescriptor.xsd">\n'
        f"{_mark('polygons')}<NamedLayer>\n<se:Name>{_text(legible(name))}</se:Name>\n<UserStyle>\n"
        f"<se:Name>classes</se:Name>\n<se:FeatureTypeStyle>\n{rules}</se:FeatureTypeStyle>\n</UserStyle>\n"
        "</NamedLayer>\n</StyledLayerDescriptor>\n"
    )


# ---------------------------------------------------------------------------------------------
# Rasters


def labels_qml(colors: Mapping[str, str]) -> str:
    """Return a QGIS style of a label raster: the background clear, and no colours without a class."""
    entries = "".join(
        f'<paletteEntry value="{label}" color="{color}" alpha="255" label={_attribute(legible(name))}/>\n'
        for label, (name, color) in enumerate(colors.items(), 1)
    )
    return (
        f'{_QML}{_mark("labels")}<pipe>\n<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"'
        ' nodataColor="">\n<rasterTransparency/>\n<colorPalette>\n'
        f'<paletteEntry value="0" color="#000000" alpha="0" label="{_BACKGROUND}"/>\n{entries}</colorPalette>\n'
        "</rasterrenderer>\n</pipe>\n<blendMode>0</blendMode>\n</qgis>\n"
    )


def labels_sld(colors: Mapping[str, str], name: str) -> str:
    """Return a Styled Layer Descriptor 1.0 of a label raster; arguments as in :func:`polygons_sld`."""
    entries = "".join(
        f'<ColorMapEntry color="{color}" quantity="{label}" opacity="1" label={_attribute(legible(entry))}/>\n'
        for label, (entry, color) in enumerate(colors.items(), 1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<StyledLayerDescriptor version="1.0.0"'
        ' xmlns="http://www.opengis.net/sld" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:schemaLocation="http://www.opengis.net/sld'
        ' http://schemas.opengis.net/sld/1.0.0/StyledLayerDescriptor.xsd">\n'
        f"{_mark('labels')}<NamedLayer>\n<Name>{_text(legible(name))}</Name>\n<UserStyle>\n<Name>classes</Name>\n"
        '<FeatureTypeStyle>\n<Rule>\n<RasterSymbolizer>\n<ColorMap type="values">\n'
        f'<ColorMapEntry color="#000000" quantity="0" opacity="0" label="{_BACKGROUND}"/>\n{entries}</ColorMap>\n'
        "</RasterSymbolizer>\n</Rule>\n</FeatureTypeStyle>\n</UserStyle>\n</NamedLayer>\n</StyledLayerDescriptor>\n"
    )


_COLUMNS = (("value", 0, 5), ("class", 2, 2), ("red", 0, 6), ("green", 0, 7), ("blue", 0, 8), ("alpha", 0, 9))
"""Of an attribute table: name, type (0 whole number, 2 text) and usage, as GDAL numbers them."""


def categories(colors: Mapping[str, str], nodata: int | None) -> str:
    """Return class names and colours as GDAL keeps them beside a raster: category names and an attribute table."""
    names = "".join(f"<Category>{_text(legible(name))}</Category>\n" for name in (_BACKGROUND, *colors))
    columns = "".join(
        f'<FieldDefn index="{index}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>\n'
        for index, (name, kind, usage) in enumerate(_COLUMNS)
    )
    rows = "".join(
        f'<Row index="{index}">{"".join(f"<F>{_text(str(cell))}</F>" for cell in row)}</Row>\n'
        for index, row in enumerate(_table(colors, nodata))
    )
    return (
        f'<PAMDataset>\n<PAMRasterBand band="1">\n<CategoryNames>\n{names}</CategoryNames>\n'
        f'<GDALRasterAttributeTable tableType="thematic">\n{columns}{rows}</GDALRasterAttributeTable>\n'
        "</PAMRasterBand>\n</PAMDataset>\n"
    )


def _table(colors: Mapping[str, str], nodata: int | None) -> Iterator[tuple[object, ...]]:
    yield 0, _BACKGROUND, 0, 0, 0, 0
    for label, (name, color) in enumerate(colors.items(), 1):
        yield label, legible(name), *rgba(color)
    if nodata is not None:
        yield nodata, _NODATA, 0, 0, 0, 0
