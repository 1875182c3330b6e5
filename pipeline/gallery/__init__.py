"""One self-contained page over the images of a run, with a slider for alpha that is exact at every stop.

numbers     levels of the prediction sets at all stops, and the counts that follow from them
source      the stores of a run, and its thresholds at every stop
estimates   held-out coverage and precision at every stop
thresholds  maps and numbers of the thresholds
packing     arrays in a page
images      one image: its counts, and what the page has of it
content     all that the page embeds
page        the HTML, with gallery.css and the scripts
"""

from pipeline.gallery.page import gallery_fragment, gallery_page

__all__ = ["gallery_fragment", "gallery_page"]
